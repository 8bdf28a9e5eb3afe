import BlockIO
import Glibc
import PersistentData
import Testing
import ThinFormat

@testable import ThinTools

/// Passes everything on to a device in memory, records the steps, and fails from a chosen step on.
private final class WatchedDevice: BlockDevice {
  enum Step: Equatable { case write(block: UInt64, isZero: Bool), flush }
  private let inner: FileDevice
  var path: String { "device" }
  var byteCount: UInt64 { inner.byteCount }
  var descriptor: Int32? { nil }
  private(set) var steps: [Step] = []
  /// Index of the step that fails, after which all fail.
  var failFrom = Int.max

  init(blocks: UInt64) { inner = zeroDevice(blocks: blocks) }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try inner.read(into: buffer, at: offset)
  }
  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard steps.count < failFrom else {
      throw BlockIOError(.write, path: path, offset: offset, code: EIO)
    }
    steps.append(.write(block: offset / 4096, isZero: buffer.allSatisfy { $0 == 0 }))
    try inner.write(buffer, at: offset)
  }
  func flush() throws(BlockIOError) {
    guard steps.count < failFrom else { throw BlockIOError(.flush, path: path, code: EIO) }
    steps.append(.flush)
  }
}

private func small() -> PoolText {
  var pool = PoolText()
  pool.beginDef("a")
  pool.map(0, 0, 300)
  pool.endDef()
  pool.beginDevice(1, mapped: 301)
  pool.ref("a")
  pool.map(400, 400)
  pool.endDevice()
  pool.beginDevice(7, mapped: 300)
  pool.ref("a")
  pool.endDevice()
  pool.beginDevice(9, mapped: 0)
  pool.endDevice()
  return pool
}

struct RestoreTests {
  @Test("the metadata has the content of the XML, and the space maps agree with it")
  func contents() throws {
    let device = zeroDevice(blocks: 1024)
    let result = try restore(small().whole, to: device)
    let pool = try PoolImage(device)
    #expect(pool.problems == [])
    #expect(result.superblock == pool.superblock)
    #expect(result.deviceCount == 3 && result.mappingCount == 601 && result.warnings == [])
    #expect(pool.superblock.time == 9 && pool.superblock.transactionID == 3)
    #expect(pool.superblock.metadataBlockCount == 1024)
    #expect(pool.superblock.metadataSpaceMap.blockCount == 1024)
    #expect(pool.superblock.dataSpaceMap.blockCount == 100_000)
    let shared = (0..<300).map { PoolImage.Entry(key: $0, dataBlock: $0, time: 1) }
    #expect(pool.mappings(of: 7) == shared)
    #expect(pool.mappings(of: 1) == shared + [PoolImage.Entry(key: 400, dataBlock: 400, time: 1)])
    #expect(pool.mappings(of: 9) == [])
    #expect(
      pool.details[1]
        == DeviceDetails(mappedBlocks: 301, transactionID: 1, creationTime: 2, snapshottedTime: 4))
  }

  @Test("the superblock is zeroed and flushed first, and written last between two flushes")
  func order() throws {
    let device = WatchedDevice(blocks: 1024)
    try restore(small().whole, to: device)
    let steps = device.steps
    #expect(steps.prefix(2) == [.write(block: 0, isZero: true), .flush])
    #expect(steps.suffix(3) == [.flush, .write(block: 0, isZero: false), .flush])
    for step in steps.dropFirst(2).dropLast(3) {
      if case .write(let block, _) = step { #expect(block > 0) }
    }
  }

  @Test("if any write or flush fails, the restore fails and block 0 is not a superblock")
  func failures() throws {
    var failAt = 0
    while failAt < 100 {
      let device = WatchedDevice(blocks: 1024)
      device.failFrom = failAt
      let error = #expect(throws: ToolError.self) { try restore(small().whole, to: device) }
      guard case .system(let failed)? = error?.cause else {
        Issue.record("\(String(describing: error))")
        break
      }
      #expect(failed.operation == .write || failed.operation == .flush)
      // The very last flush comes after the write of the superblock, so the superblock is complete
      // then.
      let last = device.steps.last
      #expect(isZero(device, block: 0) || last == .write(block: 0, isZero: false))
      failAt += 1
      device.failFrom = .max
      let good = WatchedDevice(blocks: 1024)
      try restore(small().whole, to: good)
      if failAt == good.steps.count { break }
    }
    #expect(failAt < 100)
  }

  @Test("flags, version and uuid are preserved")
  func identity() throws {
    var text = small().whole
    text.replace(
      "uuid=\"\" ", with: "uuid=\"00112233-4455-6677-8899-aabbCCddeeff\" flags=\"1\" ")
    text.replace("version=\"2\"", with: "version=\"1\"")
    let device = zeroDevice(blocks: 64)
    let result = try restore(text, to: device)
    #expect(result.superblock.needsCheck && result.superblock.version == 1)
    #expect(result.superblock.uuid.low == 0x7766_5544_3322_1100)
    #expect(result.superblock.uuid.high == 0xFFEE_DDCC_BBAA_9988)
    #expect(try PoolImage(device).superblock.uuid == result.superblock.uuid)
  }

  @Test("an invalid uuid and a metadata snapshot are warned about")
  func warnings() throws {
    var text = small().whole
    text.replace("uuid=\"\" ", with: "uuid=\"myPool\" ")
    text.replace(" nr_data_blocks", with: " metadata_snap=\"77\" nr_data_blocks")
    let result = try restore(text, to: zeroDevice(blocks: 64))
    #expect(result.warnings.count == 2)
    #expect(result.superblock.uuid == (0, 0) && result.superblock.metadataSnapshot == 0)
  }

  @Test("options raise transaction id and data blocks, never lower them")
  func options() throws {
    var options = RestoreOptions()
    options.dataBlockSectors = 256
    options.dataBlockCount = 1_000_000
    options.transactionID = 2
    let device = zeroDevice(blocks: 1024)
    try restore(small().whole, to: device, options: options)
    let pool = try PoolImage(device)
    #expect(pool.problems == [])
    #expect(pool.superblock.dataSpaceMap.blockCount == 1_000_000)
    #expect(pool.superblock.dataBlockSectors == 256)
    #expect(pool.superblock.transactionID == 3)
    options.dataBlockCount = 10
    options.transactionID = 20
    let result = try restore(small().whole, to: device, options: options)
    #expect(result.superblock.dataSpaceMap.blockCount == 100_000)
    #expect(result.superblock.transactionID == 20)
  }

  @Test("a device that is too small is refused before or when its blocks run out")
  func space() {
    let tiny = restoreError(small().whole, blocks: 9)
    #expect(tiny.error?.message.contains("Output file too small") == true)
    let short = restoreError(small().whole, blocks: 14)
    #expect(short.error?.cause == .outOfSpace)
    #expect(short.error?.message.contains("out of metadata space") == true)
    #expect(short.superblockIsZero)
    let huge = restoreError(PoolText(dataBlocks: 1 << 40).whole, blocks: 1024)
    #expect(huge.error?.message.contains("out of metadata space") == true)
  }

  @Test("any number of blocks below the need is too few, and the need is enough")
  func exactSpace() throws {
    let device = zeroDevice(blocks: 1024)
    let need = try restore(small().whole, to: device).superblock.metadataSpaceMap.allocated
    for blocks in 10..<need {
      let result = restoreError(small().whole, blocks: blocks)
      #expect(result.error?.cause == .outOfSpace && result.superblockIsZero)
    }
    #expect(restoreError(small().whole, blocks: need).error == nil)
  }

  @Test(
    "an impossible pool is refused with the line, and block 0 stays zero",
    arguments: [
      ("<single_mapping origin_block=\"0\" data_block=\"1\" time=\"99999999\"/>", "time"),
      ("<single_mapping origin_block=\"0\" data_block=\"1\" time=\"10\"/>", "future"),
      ("<single_mapping origin_block=\"0\" data_block=\"100000\" time=\"1\"/>", "out of bounds"),
      (
        "<range_mapping origin_begin=\"0\" data_begin=\"99999\" length=\"2\" time=\"1\"/>",
        "out of bounds"
      ),
      ("<range_mapping origin_begin=\"0\" data_begin=\"1\" length=\"0\" time=\"1\"/>", "no blocks"),
      (
        "<range_mapping origin_begin=\"18446744073709551615\" data_begin=\"1\" length=\"2\" "
          + "time=\"1\"/>", "last block"
      ),
      ("<ref name=\"b\"/>", "unknown def 'b'"),
      ("<ref name=\"a\"/><ref name=\"a\"/>", "keys out of order"),
      (
        "<ref name=\"a\"/><single_mapping origin_block=\"299\" data_block=\"1\" time=\"1\"/>",
        "keys out of order"
      ),
    ])
  func refusals(_ element: String, _ message: String) {
    var pool = PoolText()
    pool.beginDef("a")
    pool.map(0, 0, 300)
    pool.endDef()
    pool.beginDevice(1, mapped: 5)
    pool.text += "    " + element + "\n"
    pool.endDevice()
    let result = restoreError(pool.whole)
    #expect(result.error?.cause == .invalidDump)
    #expect(result.error?.message.contains(message) == true, "\(result.error?.message ?? "none")")
    #expect(result.error?.message.hasPrefix("pool.xml: line ") == true)
    #expect(result.superblockIsZero)
  }

  @Test("a wrong count of mappings in the XML is corrected, with a warning")
  func wrongCounts() throws {
    var pool = PoolText()
    for id in 1...30 {
      pool.beginDevice(id, mapped: 5)
      pool.map(0, id)
      pool.endDevice()
    }
    let device = zeroDevice(blocks: 1024)
    let result = try restore(pool.whole, to: device)
    #expect(try PoolImage(device).problems == [])
    #expect(result.warnings.count == 21 && result.warnings[20].hasPrefix("10 more"))
    #expect(
      result.warnings[0]
        == "device 1 has 1 mappings, but mapped_blocks says 5; the real number is written")
  }

  @Test("device ids above 24 bits, second ids and second def names are refused")
  func names() {
    var pool = PoolText()
    pool.beginDevice(1 << 24, mapped: 0)
    pool.endDevice()
    #expect(restoreError(pool.whole).error?.message.contains("16777216") == true)
    pool = PoolText()
    for _ in 0..<2 {
      pool.beginDevice(5, mapped: 0)
      pool.endDevice()
    }
    #expect(restoreError(pool.whole).error?.message.contains("second device with id 5") == true)
    pool = PoolText()
    for _ in 0..<2 {
      pool.beginDef("x")
      pool.endDef()
    }
    #expect(restoreError(pool.whole).error?.message.contains("second def 'x'") == true)
  }

  @Test(
    "an impossible superblock is refused before the output is changed",
    arguments: [
      ("data_block_size=\"128\"", "data_block_size=\"100\""),
      ("version=\"2\"", "version=\"3\""),
      ("nr_data_blocks=\"100000\"", "nr_data_blocks=\"2000000000000\""),
      ("time=\"9\" ", ""),
    ])
  func header(_ old: String, _ new: String) throws {
    let device = zeroDevice(blocks: 64)
    try restore(small().whole, to: device)
    var text = small().whole
    text.replace(old, with: new, maxReplacements: 1)
    #expect(throws: ToolError.self) { try restore(text, to: device) }
    #expect(try PoolImage(device).problems == [])
  }

  @Test("text truncated anywhere leaves a zero superblock or, before it, the old metadata")
  func truncation() {
    let bytes = Array(small().whole.utf8)
    // The newline after the last tag is not part of the document.
    for count in 0..<(bytes.count - 1) {
      let text = String(decoding: bytes[0..<count], as: UTF8.self)
      let result = restoreError(text, blocks: 64)
      #expect(result.error?.cause == .invalidDump && result.superblockIsZero, "cut at \(count)")
    }
  }

  @Test("junk after the end leaves a zero superblock")
  func junk() {
    let result = restoreError(small().whole + "<superblock/>")
    #expect(result.error?.cause == .invalidDump && result.superblockIsZero)
  }
}
