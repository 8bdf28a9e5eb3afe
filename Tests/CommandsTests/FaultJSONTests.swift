import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

@testable import Commands

/// A pool that the kernel wrote, with damage, in a file.
private struct DamagedPool {
  let device: MemoryDevice
  let catalogue: BlockCatalogue
  private let scratch = try? ScratchFolder()

  init(_ name: String = "held-metadata-snapshot") throws {
    device = try MemoryDevice(contentsOf: Pools.path(name))
    catalogue = try BlockCatalogue(device)
  }

  func block(_ role: BlockCatalogue.Role) throws -> UInt64 {
    try #require(catalogue.blocks[role]?.first)
  }

  /// Changes bytes of a block, and corrects its checksum.
  func change(_ block: UInt64, _ kind: BlockKind, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
    let bytes = device.edit(block)
    let number = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    body(bytes)
    let now = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    BlockHeader.seal(bytes, number: now == number ? block : now, kind: kind)
  }

  func run(_ command: String..., options: [String] = ["--json"]) throws -> (
    status: Int32, json: String
  ) {
    let blocks = device.byteCount / 4096
    let path = try #require(scratch).file("pool")
    let file = try TextOutput(path: path)
    for block in 0..<blocks { try file.sink.write(device.peek(block)) }
    try file.commit()
    let arguments = command + options + [path]
    let result =
      command[0] == "pool" ? dmthin(arguments) : runCommand(arguments)
    return (result.status, result.output)
  }

  var superblock: Superblock {
    get throws { try MetadataView(device, source: .current).superblock }
  }
}

@Suite("Faults in JSON")
struct FaultJSONTests {
  private func expect(
    _ json: String, _ members: String..., location: SourceLocation = #_sourceLocation
  ) {
    // Each finding is complete.
    let findings = json.split(separator: "{").map { String($0) }
    #expect(
      findings.contains { finding in members.allSatisfy(finding.contains) },
      "\(members) in \(json)", sourceLocation: location)
  }

  @Test("thin_check reports a block's fault with tree, block, expected and found")
  func blocks() throws {
    let pool = try DamagedPool()
    let leaf = try pool.block(.node(.mappings, isLeaf: true))
    pool.device.edit(leaf)[100] ^= 1
    var json = try pool.run("thin_check").json
    expect(
      json, "\"severity\":\"fatal\"", "\"kind\":\"checksum\"", "\"tree\":\"mappings\"",
      "\"block\":\(leaf)", "\"expected\":", "\"found\":",
      "\"message\":\"mapping tree: block \(leaf)")
    expect(json, "\"kind\":\"mappings_lost\"", "\"block\":\(leaf)", "\"device\":", "\"ranges\":[")
    #expect(json.contains("\"begin\":") && json.contains("\"length\":"))
    pool.device.revert()

    pool.change(leaf, .btreeNode) { $0.storeBytes(of: 4711, toByteOffset: 8, as: UInt64.self) }
    json = try pool.run("thin_check").json
    expect(
      json, "\"kind\":\"block_number\"", "\"block\":\(leaf)", "\"expected\":\(leaf)",
      "\"found\":4711")
    pool.device.revert()

    pool.change(leaf, .bitmap) { _ in }
    expect(
      try pool.run("thin_check").json, "\"kind\":\"block_kind\"", "\"block\":\(leaf)",
      "\"expected\":\"btree node\"", "\"found\":\"space map bitmap\"")
    pool.device.revert()

    let devices = try pool.block(.node(.devices, isLeaf: true))
    pool.change(devices, .btreeNode) { $0.storeBytes(of: 9, toByteOffset: 24, as: UInt32.self) }
    expect(
      try pool.run("thin_check").json, "\"kind\":\"field_value_size\"", "\"tree\":\"devices\"",
      "\"block\":\(devices)", "\"expected\":8", "\"found\":9")
    pool.device.revert()
  }

  @Test("thin_check reports faults of a device and its mappings with the device's id")
  func devices() throws {
    let pool = try DamagedPool("snapshots-of-snapshots")
    let details = try pool.block(.node(.details, isLeaf: true))
    // Keys come first, 24 bytes of details each after room for all keys.
    let (count, room): (UInt32, UInt32) = (
      pool.device.peek(details).load(fromByteOffset: 16, as: UInt32.self),
      pool.device.peek(details).load(fromByteOffset: 20, as: UInt32.self)
    )
    let id = pool.device.peek(details).load(fromByteOffset: 32, as: UInt64.self)
    let values = 32 + 8 * Int(room)
    let mapped = pool.device.peek(details).loadUnaligned(fromByteOffset: values, as: UInt64.self)
    pool.change(details, .btreeNode) {
      $0.storeBytes(of: mapped + 3, toByteOffset: values, as: UInt64.self)
    }
    expect(
      try pool.run("thin_check").json, "\"kind\":\"mapping_count\"", "\"device\":\(id)",
      "\"expected\":\(mapped + 3)", "\"found\":\(mapped)")
    pool.device.revert()

    pool.change(details, .btreeNode) {
      $0.storeBytes(of: count - 1, toByteOffset: 16, as: UInt32.self)
    }
    expect(try pool.run("thin_check").json, "\"kind\":\"no_device_details\"", "\"device\":")
    pool.device.revert()

    let leaf = try pool.block(.node(.mappings, isLeaf: true))
    let leafRoom = pool.device.peek(leaf).load(fromByteOffset: 20, as: UInt32.self)
    pool.change(leaf, .btreeNode) {
      $0.storeBytes(of: 1 << 60, toByteOffset: 32 + 8 * Int(leafRoom), as: UInt64.self)
    }
    expect(
      try pool.run("thin_check").json, "\"kind\":\"data_block_beyond_end\"", "\"block\":\(leaf)",
      "\"found\":\(UInt64(1 << 60) >> 24)", "\"expected\":")
  }

  @Test("thin_check reports leaked blocks and wrong counts as ranges of a space map")
  func counts() throws {
    let pool = try DamagedPool("metadata-refcounts")
    let bitmap = try pool.block(.dataBitmap)
    let entries = (0..<4000).map {
      Bitmap.count(RawSpan(_unsafeBytes: pool.device.peek(bitmap)), $0)
    }
    let free = try #require(entries.firstIndex(of: 0))
    let used = try #require(entries.firstIndex(of: 1))
    pool.change(bitmap, .bitmap) { Bitmap.setCount($0, free, 1) }
    var result = try pool.run("thin_check")
    #expect(result.status == 65)
    expect(
      result.json, "\"severity\":\"leak\"", "\"kind\":\"leaked_blocks\"", "\"space_map\":\"data\"",
      "\"expected\":0", "\"found\":1")
    #expect(result.json.contains("\"ranges\":[{\"begin\":\(free),\"length\":1}]"))
    pool.device.revert()
    pool.change(bitmap, .bitmap) { Bitmap.setCount($0, used, 0) }
    result = try pool.run("thin_check")
    #expect(result.status == 64)
    expect(
      result.json, "\"kind\":\"reference_counts\"", "\"space_map\":\"data\"", "\"expected\":1",
      "\"found\":0")
    #expect(result.json.contains("\"ranges\":[{\"begin\":\(used),\"length\":1}]"))
    pool.device.revert()
    let index = try pool.block(.index)
    pool.change(index, .index) {
      $0.storeBytes(of: 1, toByteOffset: 16 + 8, as: UInt32.self)
    }
    expect(
      try pool.run("thin_check").json, "\"severity\":\"minor\"", "\"kind\":\"free_entries\"",
      "\"space_map\":\"metadata\"", "\"found\":1", "\"expected\":")
  }

  @Test("JSON output has an object even if there is no result")
  func errors() throws {
    let pool = try DamagedPool()
    pool.device.edit(0)[100] ^= 1
    for command in ["thin_check", "thin_ls"] {
      let result = try pool.run(command)
      #expect(result.status == 64)
      #expect(result.json.hasPrefix("{\"error\":{\"kind\":\"checksum\",\"block\":0,\"expected\":"))
      #expect(result.json.hasSuffix("}}\n"))
    }
    pool.device.revert()
    let details = try pool.superblock.detailsRoot
    pool.device.edit(details)[100] ^= 1
    let result = try pool.run("thin_ls")
    #expect(
      result.json.hasPrefix(
        "{\"error\":{\"kind\":\"checksum\",\"tree\":\"details\",\"block\":\(details),"),
      "\(result.json)")
    let missing = runCommand("thin_check", "--json", "/nonexistent/file")
    #expect(missing.status == 66)
    #expect(missing.output.hasPrefix("{\"error\":{\"kind\":\"not_found\",\"message\":"))
    // An invalid command line is reported to the user, not as JSON.
    #expect(runCommand("thin_check", "--json").output.isEmpty)
  }

  @Test("pool doctor prints the same members beside its sentences")
  func doctor() throws {
    let pool = try DamagedPool()
    let held = try pool.superblock.metadataSnapshot
    let sound = try pool.run("pool", "doctor", options: ["--json"])
    expect(
      sound.json, "\"code\":\"metadata-snapshot-leaked\"", "\"kind\":\"metadata_snapshot\"",
      "\"block\":\(held)")
    let expected = try pool.run(
      "pool", "doctor", options: ["--json", "--expect-transaction-id", "9999"])
    expect(
      expected.json, "\"code\":\"transaction-id\"", "\"expected\":9999",
      "\"found\":\(try pool.superblock.transactionID)")
    let devices = try pool.block(.node(.devices, isLeaf: true))
    pool.device.edit(devices)[100] ^= 1
    let damaged = try pool.run("pool", "doctor")
    #expect(damaged.status == 64)
    expect(
      damaged.json, "\"code\":\"damaged\"", "\"kind\":\"checksum\"", "\"tree\":\"devices\"",
      "\"block\":\(devices)")
    pool.device.revert()
    pool.device.edit(0)[100] ^= 1
    expect(
      try pool.run("pool", "doctor").json, "\"code\":\"no-superblock\"", "\"kind\":\"checksum\"",
      "\"block\":0")
  }
}
