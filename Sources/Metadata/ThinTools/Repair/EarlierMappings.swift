import PersistentData
import ThinFormat

/// Makes new leaves for lost ones of mapping trees, of what earlier generations had in their place.
///
/// A mapping of an earlier generation is taken where the data space map counts its data block more often
/// than the leaves that are left name it: then a lost leaf named it. That it was this one, and for the same
/// virtual block, is likely and not certain.
///
/// Memory: a leaf's mappings for each lost leaf.
struct EarlierMappings: ~Copyable {
  /// A place where a leaf is lost.
  struct Hole: Equatable {
    var block: UInt64
    /// Virtual blocks that it had.
    var range: Range<UInt64>
    /// Devices whose it was.
    var owners: [UInt64]
  }

  /// A leaf that takes the place of a lost one.
  struct Leaf: Equatable {
    var block: UInt64
    /// Virtual blocks that the lost one had.
    var range: Range<UInt64>
    /// Ascending.
    var entries: [(key: UInt64, mapping: Mapping)]

    static func == (a: Leaf, b: Leaf) -> Bool {
      a.block == b.block && a.range == b.range
        && a.entries.elementsEqual(b.entries) { $0 == $1 }
    }

    /// Writes it as a node of a mapping tree.
    func encode(into bytes: UnsafeMutableRawBufferPointer) {
      unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0)
      let valueSize = TreeKind.mappings.valueSize
      unsafe BtreeNodeRecord.begin(bytes, isLeaf: true, valueSize: valueSize)
      unsafe BtreeNodeRecord.setEntryCount(bytes, entries.count)
      let values =
        BtreeNodeRecord.keysOffset + 8 * BtreeNodeRecord.entriesMax(valueSize: valueSize)
      for (i, entry) in entries.enumerated() {
        unsafe bytes.storeBytes(
          of: entry.key.littleEndian, toByteOffset: BtreeNodeRecord.keysOffset + 8 * i,
          as: UInt64.self)
        unsafe bytes.storeBytes(
          of: entry.mapping.rawValue.littleEndian, toByteOffset: values + 8 * i, as: UInt64.self)
      }
      unsafe BlockHeader.seal(bytes, number: block, kind: .btreeNode)
    }
  }

  /// Lost leaves that are looked at.
  static let leavesMax = 1 << 14
  /// Nodes of earlier generations that are read for one lost leaf.
  private static let nodesMax = 4096
  private let reader: BlockReader
  private let history: DeviceHistory
  private let data: DataAllocation
  private let dataBlockCount: UInt64
  /// How often what is left, and what was taken, names each data block.
  private let named: ReferenceCounts
  private var lacking: [UInt64: UInt64]
  private var nodesLeft = 0

  /// - Parameters:
  ///   - data: the data space map of the generation that is salvaged.
  ///   - dataBlockCount: mappings to this data block and above are impossible.
  ///   - named: how often the leaves that are left name each data block.
  ///   - lacking: how many mappings each device has less than its details say, where that is known.
  init(
    _ reader: BlockReader, _ history: DeviceHistory, _ data: DataAllocation,
    dataBlockCount: UInt64, named: ReferenceCounts, lacking: [UInt64: UInt64]
  ) {
    self.reader = reader
    self.history = history
    self.data = data
    self.dataBlockCount = dataBlockCount
    self.named = named
    self.lacking = lacking
  }

  /// The leaf for a hole; nil where no earlier generation has anything for it.
  mutating func leaf(_ hole: Hole) -> Leaf? {
    var room = UInt64(BtreeNodeRecord.entriesMax(valueSize: TreeKind.mappings.valueSize))
    for owner in hole.owners { room = min(room, lacking[owner] ?? .max) }
    var found: [UInt64: Mapping] = [:]
    nodesLeft = Self.nodesMax
    var seen: Set<UInt64> = []
    for owner in hole.owners {
      for root in history.roots(of: owner) where UInt64(found.count) < room {
        collect(root, hole.range, 1, &seen, room, &found)
      }
    }
    guard !found.isEmpty else { return nil }
    for owner in hole.owners {
      lacking[owner] = lacking[owner].map { $0 - min($0, UInt64(found.count)) }
    }
    let entries = found.sorted { $0.key < $1.key }.map { (key: $0.key, mapping: $0.value) }
    return Leaf(block: hole.block, range: hole.range, entries: entries)
  }

  private mutating func collect(
    _ block: UInt64, _ range: Range<UInt64>, _ level: Int, _ seen: inout Set<UInt64>,
    _ room: UInt64, _ found: inout [UInt64: Mapping]
  ) {
    guard nodesLeft > 0, level <= Limits.treeLevelsMax, seen.insert(block).inserted else { return }
    nodesLeft -= 1
    var children: [UInt64] = []
    var mappings: [(key: UInt64, mapping: Mapping)] = []
    try? reader.withNode(block, of: .mappings) { node in
      for i in 0..<node.entryCount {
        let key = node.key(i)
        if node.isLeaf {
          guard range.contains(key) else { continue }
          mappings.append((key, Mapping(rawValue: node.value64(i))))
        } else {
          let end = i + 1 < node.entryCount ? node.key(i + 1) : .max
          if key < range.upperBound, end > range.lowerBound { children.append(node.value64(i)) }
        }
      }
    }
    for (key, mapping) in mappings where UInt64(found.count) < room {
      guard found[key] == nil, isLost(mapping.dataBlock) else { continue }
      found[key] = mapping
      named.increment(mapping.dataBlock)
    }
    for child in children { collect(child, range, level + 1, &seen, room, &found) }
  }

  /// Whether a lost leaf named the data block, as far as that is known.
  private func isLost(_ dataBlock: UInt64) -> Bool {
    guard dataBlock < dataBlockCount else { return false }
    let left = named.count(of: dataBlock)
    return data.count(of: dataBlock).map { $0 > left } ?? (left == 0)
  }
}
