import BlockIO
import CDMThin
import Glibc
import PersistentData
import ThinFormat

@testable import ThinTools

/// Makes a file that begins with `bytes`.
func textFile(_ bytes: [UInt8]) -> Int32 {
  let fd = dmthin_memory_file("device")
  var done = 0
  while done < bytes.count {
    let n = bytes.withUnsafeBytes { write(fd, $0.baseAddress.map { $0 + done }, $0.count - done) }
    precondition(n > 0)
    done += n
  }
  lseek(fd, 0, SEEK_SET)
  return fd
}

/// A device filled with zeros.
func zeroDevice(blocks: UInt64) -> FileDevice {
  let fd = dmthin_memory_file("device")
  precondition(ftruncate(fd, off_t(blocks * 4096)) == 0)
  return FileDevice(adopting: fd, path: "device", byteCount: blocks * 4096)
}

/// Restores `xml`, and closes it afterwards.
@discardableResult
func restore(
  _ xml: String, to device: any BlockDevice, options: RestoreOptions = RestoreOptions()
) throws(ToolError) -> RestoreResult {
  let fd = textFile(Array(xml.utf8))
  defer { close(fd) }
  return try ThinRestore.run(xml: fd, path: "pool.xml", to: device, options: options)
}

/// The error of restoring `xml`, and whether the superblock is zero afterwards.
func restoreError(
  _ xml: String, options: RestoreOptions = RestoreOptions(), blocks: UInt64 = 1024
) -> (error: ToolError?, superblockIsZero: Bool) {
  let device = zeroDevice(blocks: blocks)
  do throws(ToolError) {
    try restore(xml, to: device, options: options)
    return (nil, isZero(device, block: 0))
  } catch {
    return (error, isZero(device, block: 0))
  }
}

func isZero(_ device: any BlockDevice, block: UInt64) -> Bool {
  let buffer = AlignedBuffer(count: 4096)
  guard (try? device.read(into: buffer.bytes, at: block * 4096)) != nil else { return false }
  return buffer.bytes.allSatisfy { $0 == 0 }
}

/// The contents of a pool's metadata, found by a walk from the superblock, and every difference
/// from the way the kernel keeps it.
final class PoolImage {
  struct Entry: Equatable {
    var key: UInt64
    var dataBlock: UInt64
    var time: UInt32
  }

  private let device: any BlockDevice
  private(set) var superblock = Superblock()
  private(set) var problems: [String] = []
  private(set) var details: [UInt64: DeviceDetails] = [:]
  private(set) var roots: [UInt64: UInt64] = [:]
  private var metadataCounts: [UInt64: UInt32] = [0: 1]
  private var dataCounts: [UInt64: UInt32] = [:]
  /// Mappings below a node.
  private var memo: [UInt64: [Entry]] = [:]

  init(_ device: any BlockDevice) throws {
    self.device = device
    let bytes = try read(0)
    superblock = try Superblock(validating: bytes.span, number: 0)
    try walk(superblock.detailsRoot, valueSize: 24, isRoot: true) { node, i in
      details[node.key(i)] = DeviceDetails(decoding: node.bytes, at: node.valueOffset(i))
    }
    try walk(superblock.mappingRoot, valueSize: 8, isRoot: true) { node, i in
      roots[node.key(i)] = node.value64(i)
    }
    for (id, root) in roots {
      let entries = try mappings(root, isRoot: true)
      if details[id]?.mappedBlocks != UInt64(entries.count) { problems.append("mapped of \(id)") }
    }
    if Set(details.keys) != Set(roots.keys) { problems.append("details and roots differ") }
    try checkDataMap()
    try checkMetadataMap()
  }

  /// Mappings of device `id`.
  func mappings(of id: UInt64) -> [Entry] { roots[id].flatMap { memo[$0] } ?? [] }

  /// Parents of a metadata block.
  func count(of block: UInt64) -> UInt32 { metadataCounts[block] ?? 0 }

  private func read(_ block: UInt64) throws -> AlignedBuffer {
    let buffer = AlignedBuffer(count: 4096)
    try device.read(into: buffer.bytes, at: block * 4096)
    return buffer
  }

  private func check(_ node: borrowing BtreeNodeView, _ block: UInt64, isRoot: Bool) {
    if !isRoot && node.entryCount < node.entriesMin { problems.append("underfull \(block)") }
    if !node.isLeaf && node.entryCount < 2 { problems.append("one child \(block)") }
  }

  private func walk(
    _ block: UInt64, valueSize: Int, isRoot: Bool,
    _ body: (borrowing BtreeNodeView, Int) throws -> Void
  ) throws {
    metadataCounts[block, default: 0] += 1
    let bytes = try read(block)
    let node = try BtreeNodeView(validating: bytes.span, number: block, leafValueSize: valueSize)
    check(node, block, isRoot: isRoot)
    for i in 0..<node.entryCount {
      if node.isLeaf {
        try body(node, i)
      } else {
        try walk(node.value64(i), valueSize: valueSize, isRoot: false, body)
      }
    }
  }

  private func mappings(_ block: UInt64, isRoot: Bool) throws -> [Entry] {
    metadataCounts[block, default: 0] += 1
    if let known = memo[block] {
      // A node that is the root for one device is inside the tree of another, and must be full
      // enough for that.
      let bytes = try read(block)
      let node = try BtreeNodeView(validating: bytes.span, number: block, leafValueSize: 8)
      check(node, block, isRoot: isRoot)
      return known
    }
    let bytes = try read(block)
    let node = try BtreeNodeView(validating: bytes.span, number: block, leafValueSize: 8)
    check(node, block, isRoot: isRoot)
    var entries: [Entry] = []
    for i in 0..<node.entryCount {
      if node.isLeaf {
        let mapping = Mapping(rawValue: node.value64(i))
        entries.append(Entry(key: node.key(i), dataBlock: mapping.dataBlock, time: mapping.time))
        dataCounts[mapping.dataBlock, default: 0] += 1
      } else {
        let below = try mappings(node.value64(i), isRoot: false)
        if below.first?.key != node.key(i) { problems.append("separator \(i) of \(block)") }
        if let last = entries.last, let first = below.first, first.key <= last.key {
          problems.append("order at \(i) of \(block)")
        }
        entries += below
      }
    }
    memo[block] = entries
    return entries
  }

  private func checkDataMap() throws {
    var entries: [IndexEntry] = []
    try walk(superblock.dataSpaceMap.bitmapRoot, valueSize: 16, isRoot: true) { node, i in
      if node.key(i) != UInt64(i + entries.count - i) { problems.append("index key") }
      entries.append(IndexEntry(decoding: node.bytes, at: node.valueOffset(i)))
    }
    for entry in entries { metadataCounts[entry.bitmapBlock, default: 0] += 1 }
    try check(superblock.dataSpaceMap, entries, dataCounts, "data")
  }

  private func checkMetadataMap() throws {
    let map = superblock.metadataSpaceMap
    metadataCounts[map.bitmapRoot, default: 0] += 1
    let index = try read(map.bitmapRoot)
    try BlockHeader.verify(index.span, number: map.bitmapRoot, kind: .index)
    var entries: [IndexEntry] = []
    for i in 0..<Int(map.bitmapCount) {
      entries.append(IndexEntry(decoding: index.span, at: IndexBlock.offset(ofEntry: i)))
      metadataCounts[entries[i].bitmapBlock, default: 0] += 1
    }
    try check(map, entries, nil, "metadata")
  }

  /// Compares a space map with `counts`, nil for the metadata counts.
  private func check(
    _ map: SpaceMapRoot, _ entries: [IndexEntry], _ counts: [UInt64: UInt32]?, _ name: String
  ) throws {
    var overflow: [UInt64: UInt32] = [:]
    try walk(map.overflowRoot, valueSize: 4, isRoot: true) { node, i in
      overflow[node.key(i)] = node.value32(i)
    }
    let counts = counts ?? metadataCounts
    let expected = counts.filter { $0.value >= 3 }
    if overflow != expected { problems.append("\(name) overflow") }
    if UInt64(entries.count) != map.bitmapCount { problems.append("\(name) bitmaps") }
    if map.allocated != UInt64(counts.count) { problems.append("\(name) nr_allocated") }
    for (j, entry) in entries.enumerated() {
      let bitmap = try read(entry.bitmapBlock)
      try BlockHeader.verify(bitmap.span, number: entry.bitmapBlock, kind: .bitmap)
      var used = 0
      var firstFree = 16320
      for e in 0..<16320 {
        let count = counts[UInt64(j * 16320 + e)] ?? 0
        if UInt32(Bitmap.count(bitmap.span, e)) != min(3, count) {
          problems.append("\(name) block \(j * 16320 + e): expected \(count)")
        }
        if count > 0 { used += 1 } else { firstFree = min(firstFree, e) }
      }
      if entry.freeCount != UInt32(16320 - used) { problems.append("\(name) nr_free \(j)") }
      if entry.noneFreeBefore != UInt32(firstFree) { problems.append("\(name) hint \(j)") }
    }
  }
}

/// The XML text of a pool, written piece by piece.
struct PoolText {
  var text: String
  init(dataBlocks: UInt64 = 100_000, time: UInt32 = 9, more: String = "") {
    text =
      "<superblock uuid=\"\" time=\"\(time)\" transaction=\"3\" version=\"2\" "
      + "data_block_size=\"128\" nr_data_blocks=\"\(dataBlocks)\"\(more)>\n"
  }
  mutating func beginDef(_ name: String) { text += "  <def name=\"\(name)\">\n" }
  mutating func endDef() { text += "  </def>\n" }
  mutating func beginDevice(_ id: Int, mapped: Int) {
    text +=
      "  <device dev_id=\"\(id)\" mapped_blocks=\"\(mapped)\" transaction=\"1\" "
      + "creation_time=\"2\" snap_time=\"4\">\n"
  }
  mutating func endDevice() { text += "  </device>\n" }
  mutating func ref(_ name: String) { text += "    <ref name=\"\(name)\"/>\n" }
  mutating func map(_ key: Int, _ data: Int, _ length: Int = 1, time: Int = 1) {
    if length == 1 {
      text +=
        "    <single_mapping origin_block=\"\(key)\" data_block=\"\(data)\" time=\"\(time)\"/>\n"
    } else {
      text +=
        "    <range_mapping origin_begin=\"\(key)\" data_begin=\"\(data)\" "
        + "length=\"\(length)\" time=\"\(time)\"/>\n"
    }
  }
  var whole: String { text + "</superblock>\n" }
}
