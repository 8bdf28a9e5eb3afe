import BlockIO
import PersistentData
import Simulation
import Testing
import ThinFormat

@Suite struct BlockCacheTests {
  @Test("Neighbours are written together, up to 64, each with its own number and checksum")
  func runs() throws {
    let memory = MemoryDevice(byteCount: 400 * 4096)
    let device = RecordingDevice(memory)
    let cache = BlockCache(device)
    let runs: [Range<UInt64>] = [3..<4, 7..<12, 100..<200]
    // Backwards: the order on the device is not that of the changes.
    for block in runs.joined().reversed() {
      cache.zeroed(block, .btreeNode).storeBytes(
        of: block &* 7, toByteOffset: 2048, as: UInt64.self)
    }
    try cache.flush()

    let written = device.steps.compactMap { step -> Range<UInt64>? in
      guard case .write(let offset, let bytes) = step else { return nil }
      return offset / 4096..<(offset + UInt64(bytes.count)) / 4096
    }
    #expect(written == [3..<4, 7..<12, 100..<164, 164..<200])
    guard case .flush = device.steps.last else {
      Issue.record("not flushed")
      return
    }
    let fresh = BlockCache(memory)
    for block in runs.joined() {
      let contents = try fresh.read(block, .btreeNode)
      #expect(contents.load(fromByteOffset: 2048, as: UInt64.self) == block &* 7)
    }
    // A flush does not write blocks again that are on the device.
    try cache.flush()
    #expect(device.steps.count == written.count + 2)
  }

  @Test("Blocks whose write failed are written by the next flush")
  func failedRun() throws {
    let memory = MemoryDevice(byteCount: 64 * 4096)
    let device = FaultyDevice(memory)
    let cache = BlockCache(device)
    for block: UInt64 in 10..<14 { _ = cache.zeroed(block, .btreeNode) }
    device.fault = (.write, 0)
    #expect(throws: PoolError.self) { try cache.flush() }
    try cache.flush()
    for block: UInt64 in 10..<14 { _ = try BlockCache(memory).read(block, .btreeNode) }
  }
}
