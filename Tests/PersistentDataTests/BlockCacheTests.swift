import BlockIO
import PersistentData
import Simulation
import Testing
import ThinFormat

@Suite struct BlockCacheTests {
  @Test("Blocks are written in ascending order, each with its own number and checksum")
  func order() throws {
    let memory = MemoryDevice(byteCount: 400 * 4096)
    let device = RecordingDevice(memory)
    let cache = BlockCache(device)
    let blocks = Array([3..<4, 7..<12, 100..<200 as Range<UInt64>].joined())
    // Backwards: the order on the device is not that of the changes.
    for block in blocks.reversed() {
      cache.zeroed(block, .btreeNode).storeBytes(
        of: block &* 7, toByteOffset: 2048, as: UInt64.self)
    }
    try cache.flush()

    let written = device.steps.compactMap { step -> UInt64? in
      guard case .write(let offset, let bytes) = step, bytes.count == 4096 else { return nil }
      return offset / 4096
    }
    #expect(written == blocks)
    guard case .flush = device.steps.last else {
      Issue.record("not flushed")
      return
    }
    let fresh = BlockCache(memory)
    for block in blocks {
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

  @Test("What was read beside a change is taken in only if nothing has changed the block meanwhile")
  func readBeside() throws {
    enum Change: CaseIterable { case none, made, changed, gone }
    for change in Change.allCases {
      let memory = MemoryDevice(byteCount: 64 * 4096)
      let cache = BlockCache(memory, blocksMax: 4)
      func store(_ value: UInt64) throws {
        cache.zeroed(9, .btreeNode).storeBytes(of: value, toByteOffset: 2048, as: UInt64.self)
      }
      try store(1)
      try cache.flush()
      cache.drop()
      cache.isInMemoryOnly = true
      #expect(throws: PoolError.absent(9)) { try cache.read(9, .btreeNode) }
      #expect(cache.absent.block == 9 && cache.absent.kind == .btreeNode)
      cache.isInMemoryOnly = false
      cache.beginReading(9)
      let buffer = AlignedBuffer(count: 4096)
      defer { withExtendedLifetime(buffer) {} }
      try memory.read(into: buffer.bytes, at: 9 * 4096)
      var expected: UInt64 = 1
      switch change {
      case .none: break
      case .made: try store(2)
      case .changed, .gone:
        try cache.read(9, .btreeNode).storeBytes(of: 2, toByteOffset: 2048, as: UInt64.self)
        cache.markDirty(9)
      }
      if change == .gone {
        // Written early, and thrown out.
        for block: UInt64 in 20..<40 {
          _ = cache.zeroed(block, .btreeNode)
          try cache.trim()
        }
      }
      if change != .none { expected = 2 }
      try cache.endReading(9, .btreeNode, buffer.bytes)
      let found = try cache.read(9, .btreeNode).load(fromByteOffset: 2048, as: UInt64.self)
      #expect(found == expected, "\(change)")
    }
    let memory = MemoryDevice(byteCount: 64 * 4096)
    let cache = BlockCache(memory)
    let buffer = AlignedBuffer(count: 4096)
    defer { withExtendedLifetime(buffer) {} }
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
    cache.beginReading(3)
    #expect(throws: PoolError.self) {
      try cache.endReading(3, .btreeNode, buffer.bytes)
    }
  }
}
