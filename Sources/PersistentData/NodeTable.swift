import ThinFormat

/// What is remembered of every tree node that was read: enough to judge how nodes fit together
/// without reading them again.
///
/// Memory: four bytes per metadata block that is looked at, 32 per node, and twelve per entry of
/// internal nodes up to `entriesKeptMax`; internal nodes beyond that are read again when needed.
struct NodeTable: ~Copyable {
  /// 32 bytes.
  struct Node {
    var firstKey: UInt64 = 0
    var lastKey: UInt64 = 0
    /// Leaf entries in the whole subtree; of an internal node known only after `verify`.
    var leafEntries: UInt64 = 0
    /// Where the entries of an internal node are kept; `.max` where they are not.
    var kept: UInt32 = .max
    var entryCount: UInt16 = 0
    /// Levels of the subtree, 1 for a leaf, 0 for an internal node before `verify`.
    var height: UInt8 = 0
    private var packed: UInt8 = 0

    init(_ kind: TreeKind, state: State = .unverified) {
      packed = kind.rawValue << 5
      self.state = state
    }

    var kind: TreeKind { TreeKind(rawValue: packed >> 5) ?? .mappings }
    var isLeaf: Bool { height == 1 }
    var state: State {
      get { State(rawValue: packed & 7) ?? .unusable }
      set { packed = packed & ~7 | newValue.rawValue }
    }
    /// An unusable node in whose place others were put, which are kept as its entries.
    var isAdopted: Bool {
      get { packed & 16 != 0 }
      set { packed = newValue ? packed | 16 : packed & ~16 }
    }
    /// A sound node in a place where it does not belong.
    var isMisplaced: Bool {
      get { packed & 8 != 0 }
      set { packed = newValue ? packed | 8 : packed & ~8 }
    }
  }

  enum State: UInt8 {
    /// An internal node whose children have not been looked at.
    case unverified
    /// On the path that is being followed now.
    case inProgress
    /// Subtree sound.
    case sound
    /// The node is usable, something below it or about it is not.
    case faulty
    /// The node itself is unusable.
    case unusable
  }

  /// Entries of internal nodes that are kept, twelve bytes each: 6 MiB.
  private let entriesKeptMax = 1 << 19
  private let indexes: ZeroedArray<UInt32>
  private(set) var nodes: [Node] = []
  private var keptKeys: [UInt64] = []
  private var keptChildren: [UInt32] = []

  init(blockCount: UInt64) { indexes = ZeroedArray(count: Int(blockCount)) }

  func index(of block: UInt64) -> Int? {
    let i = indexes[Int(block)]
    return i == 0 ? nil : Int(i - 1)
  }

  func node(_ index: Int) -> Node { nodes[index] }

  mutating func update(_ index: Int, _ change: (inout Node) -> Void) { change(&nodes[index]) }

  mutating func insert(_ block: UInt64, _ node: Node) {
    nodes.append(node)
    indexes[Int(block)] = UInt32(nodes.count)
  }

  /// Keeps the entries of an internal node, when there is room.
  mutating func keep(_ view: borrowing BtreeNodeView) -> UInt32 {
    guard keptKeys.count + view.entryCount <= entriesKeptMax else { return .max }
    let at = UInt32(keptKeys.count)
    for i in 0..<view.entryCount {
      keptKeys.append(view.key(i))
      keptChildren.append(UInt32(truncatingIfNeeded: min(view.value64(i), UInt64(UInt32.max))))
    }
    return at
  }

  /// Keeps entries that no node on the device has.
  mutating func keep(_ entries: [(key: UInt64, block: UInt64)]) -> UInt32 {
    let at = UInt32(keptKeys.count)
    for entry in entries {
      keptKeys.append(entry.key)
      keptChildren.append(UInt32(truncatingIfNeeded: entry.block))
    }
    return at
  }

  func keptKey(_ at: UInt32, _ i: Int) -> UInt64 { keptKeys[Int(at) + i] }
  func keptChild(_ at: UInt32, _ i: Int) -> UInt64 { UInt64(keptChildren[Int(at) + i]) }
}
