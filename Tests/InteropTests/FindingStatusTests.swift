import Simulation
import TestSupport
import Testing
import ThinFormat

/// A thing that a check can find, and what thin_check ends with.
private struct FindingRow: Sendable, CustomTestStringConvertible {
  let name: String
  /// Statuses without options, with `-q`, with `-q --clear-needs-check-flag`, with `-q --strict`.
  let ours: [Int32]
  /// Whether the peer's `thin_check -q` says that the pool may be activated.
  let peerActivates: Bool
  /// Makes it so, in a pool of the kernel's.
  let change: @Sendable (MemoryDevice, BlockCatalogue) throws -> Void

  var testDescription: String { name }

  init(
    _ name: String, _ ours: [Int32], peerActivates: Bool,
    _ change: @escaping @Sendable (MemoryDevice, BlockCatalogue) throws -> Void
  ) {
    self.name = name
    self.ours = ours
    self.peerActivates = peerActivates
    self.change = change
  }
}

private let harmless: [Int32] = [0, 0, 0, 65]
private let damage: [Int32] = [64, 64, 64, 64]

private func first(_ role: BlockCatalogue.Role, _ catalogue: BlockCatalogue) throws -> UInt64 {
  try #require(catalogue.blocks[role]?.first)
}

/// Sets the count of the last free block of a map, so that nothing else of the map fits no longer.
private func leak(_ device: MemoryDevice, _ catalogue: BlockCatalogue, data: Bool) throws {
  let superblock = device.superblock
  let map = data ? superblock.dataSpaceMap : superblock.metadataSpaceMap
  let bitmap = try first(data ? .dataBitmap : .metadataBitmap, catalogue)
  let bytes = RawSpan(_unsafeBytes: device.peek(bitmap))
  let block = try #require((0..<Int(map.blockCount)).last { Bitmap.count(bytes, $0) == 0 })
  device.change(bitmap, .bitmap) { Bitmap.setCount($0, block, 1) }
  try changeIndexEntry(device, catalogue, data: data, field: 8, by: .max)
  device.changeSuperblock {
    if data { $0.dataSpaceMap.allocated += 1 } else { $0.metadataSpaceMap.allocated += 1 }
  }
}

/// Changes a number of the first index entry of a map.
private func changeIndexEntry(
  _ device: MemoryDevice, _ catalogue: BlockCatalogue, data: Bool, field: Int, by delta: UInt32
) throws {
  let block = try first(data ? .node(.spaceMapIndex, isLeaf: true) : .index, catalogue)
  device.change(block, data ? .btreeNode : .index) { bytes in
    let at = (data ? 32 + 8 * 168 : 16) + field
    bytes.storeBytes(
      of: bytes.load(fromByteOffset: at, as: UInt32.self) &+ delta, toByteOffset: at,
      as: UInt32.self)
  }
}

/// Changes a number of the first device's details.
private func changeDetails(
  _ device: MemoryDevice, _ catalogue: BlockCatalogue, field: Int, by delta: UInt32
) throws {
  device.change(try first(.node(.details, isLeaf: true), catalogue), .btreeNode) { bytes in
    let at = 32 + 8 * Int(bytes.load(fromByteOffset: 20, as: UInt32.self)) + field
    bytes.storeBytes(
      of: bytes.load(fromByteOffset: at, as: UInt32.self) &+ delta, toByteOffset: at,
      as: UInt32.self)
  }
}

private let rows: [FindingRow] = [
  FindingRow("nothing", [0, 0, 0, 0], peerActivates: true) { _, _ in },
  FindingRow("needs-check flag", [0, 0, 0, 0], peerActivates: true) { device, _ in
    device.changeSuperblock { $0.needsCheck = true }
  },
  FindingRow("allocated data blocks", harmless, peerActivates: true) { device, _ in
    device.changeSuperblock { $0.dataSpaceMap.allocated += 5 }
  },
  FindingRow("allocated metadata blocks", harmless, peerActivates: true) { device, _ in
    device.changeSuperblock { $0.metadataSpaceMap.allocated -= 1 }
  },
  FindingRow("free count of a data index entry", harmless, peerActivates: true) {
    try changeIndexEntry($0, $1, data: true, field: 8, by: 3)
  },
  FindingRow("free count of a metadata index entry", harmless, peerActivates: true) {
    try changeIndexEntry($0, $1, data: false, field: 8, by: .max)
  },
  FindingRow("first free block of an index entry", harmless, peerActivates: true) {
    try changeIndexEntry($0, $1, data: false, field: 12, by: 900)
  },
  FindingRow("creation time above the pool's", [0, 0, 0, 65], peerActivates: true) {
    try changeDetails($0, $1, field: 16, by: 50)
  },
  FindingRow("snapshot time above the pool's", [0, 0, 0, 65], peerActivates: true) {
    try changeDetails($0, $1, field: 20, by: 50)
  },
  FindingRow("leaked data block", [65, 0, 0, 65], peerActivates: false) {
    try leak($0, $1, data: true)
  },
  FindingRow("leaked metadata block", [65, 0, 0, 65], peerActivates: false) {
    try leak($0, $1, data: false)
  },
  FindingRow("data block in use that counts as free", damage, peerActivates: false) {
    let bitmap = try first(.dataBitmap, $1)
    let bytes = RawSpan(_unsafeBytes: $0.peek(bitmap))
    let used = try #require((0..<16320).first { Bitmap.count(bytes, $0) == 1 })
    $0.change(bitmap, .bitmap) { Bitmap.setCount($0, used, 0) }
  },
  FindingRow("number of mappings of a device", damage, peerActivates: false) {
    try changeDetails($0, $1, field: 0, by: 1)
  },
  FindingRow("unreadable mappings", damage, peerActivates: false) {
    $0.edit(try first(.node(.mappings, isLeaf: true), $1))[100] ^= 1
  },
  // The kernel would take shared blocks for exclusive after the next snapshot.
  FindingRow("mapping from the future", damage, peerActivates: true) {
    $0.change(try first(.node(.mappings, isLeaf: true), $1), .btreeNode) { bytes in
      let value = bytes.load(fromByteOffset: 2048, as: UInt64.self)
      bytes.storeBytes(of: value | 0xffffff, toByteOffset: 2048, as: UInt64.self)
    }
  },
]

/// lvm2 takes every status of thin_check but 0 for damage, and does not activate the pool.
@Suite struct FindingStatusTests {
  private func image(_ row: FindingRow, _ folder: ScratchFolder) throws -> String {
    let pool = try Pools.path("snapshots-of-snapshots")
    let device = try MemoryDevice(contentsOf: pool)
    try row.change(device, BlockCatalogue(device))
    var bytes = try contents(of: pool)
    for block in device.changedBlocks {
      let start = Int(block) * 4096
      bytes.replaceSubrange(start..<(start + 4096), with: device.peek(block))
    }
    return try folder.file("image", bytes: bytes)
  }

  @Test("a finding that costs no mapping does not prevent activation", arguments: rows)
  fileprivate func statuses(_ row: FindingRow) throws {
    let folder = try ScratchFolder()
    let plain = try ours("thin_check", image(row, folder))
    let quiet = try ours("thin_check", "-q", image(row, folder))
    let strict = try ours("thin_check", "-q", "--strict", image(row, folder))
    let mended = try image(row, folder)
    let mending = try ours("thin_check", "-q", "--clear-needs-check-flag", mended)
    if row.ours[0] == 65 { #expect(try ours("thin_check", "--strict", mended).status == 0) }
    #expect([plain, quiet, mending, strict].map(\.status) == row.ours)
    #expect(plain.errors.isEmpty == (row.ours.last == 0), "\(plain.errors)")
    #expect(quiet.output.isEmpty && quiet.errors.isEmpty)
    let peer = try peers("thin_check", "-q", image(row, folder)).status
    #expect((peer == 0) == row.peerActivates)
  }

  @Test(
    "the needs-check flag is cleared where nothing but harmless things is found", arguments: rows)
  fileprivate func clearsFlag(_ row: FindingRow) throws {
    guard row.ours[0] != 64 else { return }
    let folder = try ScratchFolder()
    let flagged = FindingRow(row.name, row.ours, peerActivates: true) {
      try row.change($0, $1)
      $0.changeSuperblock { $0.needsCheck = true }
    }
    for option in ["--clear-needs-check-flag", "--auto-repair"] {
      let path = try image(flagged, folder)
      #expect(try ours("thin_check", "-q", option, path).status == 0)
      #expect(try contents(of: path)[4] == 0)
    }
  }

  @Test("the superblock alone is checked if the file has nothing else")
  func superblockOnly() throws {
    let folder = try ScratchFolder()
    let first = try folder.copy(of: Pools.path("fresh"), as: "first", size: 4096)
    let result = try ours("thin_check", "--super-block-only", first)
    #expect(result.status == 0 && result.errors.isEmpty && result.text.contains("TRANSACTION_ID="))
    #expect(try ours("thin_check", first).status == 64)
  }
}
