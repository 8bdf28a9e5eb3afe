import BlockIO
import Glibc
import Testing
import ThinFormat

@testable import ThinTools

/// Restores onto outputs that hold a pool already.
struct RestoreBesideTests {
  private func pool(_ id: Int, mapped: Int) -> String {
    var pool = PoolText()
    pool.beginDevice(id, mapped: mapped)
    for key in 0..<mapped { pool.map(2 * key, key) }
    pool.endDevice()
    return pool.whole
  }

  private func bytes(_ device: any BlockDevice) throws -> [UInt8] {
    let buffer = AlignedBuffer(count: Int(device.byteCount))
    try device.read(into: buffer.bytes, at: 0)
    return Array(buffer.bytes)
  }

  @Test(
    "the new metadata uses blocks that the old one does not use, and then the old one is invalid")
  func beside() throws {
    let device = zeroDevice(blocks: 256)
    let old = try restore(pool(1, mapped: 2000), to: device).superblock
    let new = try restore(pool(5, mapped: 3000), to: device).superblock
    let image = try PoolImage(device)
    #expect(image.problems == [] && image.superblock == new)
    #expect(image.mappings(of: 5).count == 3000 && image.details.count == 1)
    #expect(new.metadataSpaceMap.blockCount == 256)
    for root in [old.mappingRoot, old.detailsRoot] { #expect(isZero(device, block: root)) }
    // And back into the blocks that are free now.
    try restore(pool(1, mapped: 2000), to: device)
    #expect(try PoolImage(device).problems == [])
  }

  @Test(
    "an error in the last line leaves every byte unchanged, whether the old metadata is sound or not"
  )
  func lateError() throws {
    for damages in [false, true] {
      let device = zeroDevice(blocks: 64)
      try restore(pool(1, mapped: 300), to: device)
      if damages {
        let junk = AlignedBuffer(count: 4096)
        junk.bytes.storeBytes(of: 0x1234_5678, as: UInt32.self)
        try device.write(UnsafeRawBufferPointer(junk.bytes), at: 2 * 4096)
      }
      let before = try bytes(device)
      for text in [pool(2, mapped: 9) + "<more/>", String(pool(2, mapped: 9).dropLast(20))] {
        #expect(throws: ToolError.self) { try restore(text, to: device) }
        #expect(try bytes(device) == before)
      }
    }
  }

  @Test("if there are too few blocks for both, the old one is overwritten with a warning, or kept")
  func inPlace() throws {
    let device = zeroDevice(blocks: 60)
    try restore(pool(1, mapped: 9000), to: device)
    let before = try PoolImage(device)
    var options = RestoreOptions()
    options.keepsOld = true
    let kept = #expect(throws: ToolError.self) {
      try restore(pool(2, mapped: 8000), to: device, options: options)
    }
    #expect(kept?.cause == .precious && kept?.message.contains("It is kept") == true)
    #expect(try PoolImage(device).superblock == before.superblock)
    #expect(try PoolImage(device).mappings(of: 1) == before.mappings(of: 1))
    // More than the device has at all: known before anything is given up.
    let tooMuch = #expect(throws: ToolError.self) {
      try restore(pool(2, mapped: 16000), to: device)
    }
    #expect(tooMuch?.cause == .outOfSpace)
    #expect(try PoolImage(device).mappings(of: 1) == before.mappings(of: 1))

    var lines: [String] = []
    let fd = textFile(Array(pool(2, mapped: 8000).utf8))
    defer { close(fd) }
    let result = try ThinRestore.run(
      xml: fd, path: "pool.xml", to: device, onNotice: { lines.append($0) })
    #expect(lines.count == 1 && lines[0].contains("given up"))
    let image = try PoolImage(device)
    #expect(image.problems == [] && image.superblock == result.superblock)
    // As on a new device, block for block.
    let fresh = zeroDevice(blocks: 60)
    #expect(try restore(pool(2, mapped: 8000), to: fresh).superblock == result.superblock)
  }

  @Test("exactly as many free blocks as are needed are enough")
  func exact() throws {
    let need =
      try restore(pool(2, mapped: 2000), to: zeroDevice(blocks: 1024)).superblock
      .metadataSpaceMap.allocated - 1
    let used = try restore(pool(1, mapped: 3000), to: zeroDevice(blocks: 1024)).superblock
      .metadataSpaceMap.allocated
    for (blocks, fits) in [(used + need - 1, false), (used + need, true)] {
      let device = zeroDevice(blocks: blocks)
      try restore(pool(1, mapped: 3000), to: device)
      var options = RestoreOptions()
      options.keepsOld = true
      let error: ToolError?
      do throws(ToolError) {
        try restore(pool(2, mapped: 2000), to: device, options: options)
        error = nil
      } catch let found {
        error = found
      }
      #expect((error == nil) == fits, "\(blocks) blocks: \(error?.message ?? "done")")
      #expect(try PoolImage(device).problems == [])
    }
  }
}
