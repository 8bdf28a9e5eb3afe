import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing

/// A device with bad sectors: reads of some blocks fail. Its descriptor, if it has one, cannot be
/// read from, so that queued requests fail as a whole and are repeated block by block.
private final class BadSectorDevice: BlockDevice {
  let path = "bad"
  let byteCount: UInt64
  let descriptor: Int32?
  private let bad: Set<UInt64>
  private let inner: FileDevice

  init(_ inner: FileDevice, bad: Set<UInt64>, descriptor: Int32?) {
    self.inner = inner
    self.bad = bad
    self.descriptor = descriptor
    byteCount = inner.byteCount
  }

  deinit {
    if let descriptor { close(descriptor) }
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    for block in (offset / 4096)..<((offset + UInt64(buffer.count)) / 4096)
    where bad.contains(block) {
      throw BlockIOError(.read, path: path, offset: block * 4096, code: EIO)
    }
    try inner.read(into: buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
  }

  func flush() {}
}

@Suite struct BlockStreamTests {
  private static let blocks = 600

  private struct Stop: Error {}

  /// Lists of every kind: runs, gaps, jumps back, repetitions, blocks beyond the end.
  private static func list(_ random: inout SplitMix64) -> [UInt64] {
    var result: [UInt64] = []
    var at = UInt64.random(in: 0..<UInt64(blocks), using: &random)
    // Another walk, whose blocks take turns with the first's.
    var other: UInt64? = Bool.random(using: &random) ? 0 : nil
    for _ in 0..<Int.random(in: 0..<1600, using: &random) {
      if let block = other, Bool.random(using: &random) {
        result.append(block)
        other = block + (block % 50 == 0 ? 9 : 1)
        continue
      }
      switch Int.random(in: 0..<20, using: &random) {
      case 0: at = UInt64.random(in: 0..<UInt64(blocks + 40), using: &random)
      case 1: at = UInt64.random(in: UInt64(blocks)...(.max / 4096 + 9), using: &random)
      case 2: break
      case 3: at = at > 0 ? at - 1 : at
      case 4..<8: at += UInt64.random(in: 1...12, using: &random)
      default: at += 1
      }
      result.append(at)
    }
    return result
  }

  /// Reads `list` and reports differences.
  private func expectDelivery(
    _ stream: BlockStream, _ list: [UInt64], failing isBad: (UInt64) -> Bool
  ) {
    var asked = 0
    var delivered: [UInt64] = []
    stream.read(
      next: {
        guard asked < list.count else { return nil }
        asked += 1
        return list[asked - 1]
      },
      body: { block, bytes, failure in
        delivered.append(block)
        #expect((failure != nil) == isBad(block), "block \(block): \(String(describing: failure))")
        guard failure == nil else { return }
        var isWhole = bytes.byteCount == 4096
        for word in 0..<512 {
          let value = bytes.unsafeLoad(fromByteOffset: word * 8, as: UInt64.self)
          isWhole = isWhole && value == block
        }
        #expect(isWhole, "block \(block)")
      })
    #expect(delivered == list)
  }

  @Test("every block is delivered in the requested order, those beyond the end as errors")
  func order() throws {
    var random = SplitMix64(seed: seed())
    let device = FileDevice(
      adopting: try numberedFile(blocks: Self.blocks), path: "memory",
      byteCount: UInt64(Self.blocks * 4096 + 512))
    let stream = BlockStream(device)
    for _ in 0..<60 {
      expectDelivery(stream, Self.list(&random)) { $0 >= UInt64(Self.blocks) }
    }
  }

  @Test("a device shorter than its size fails for exactly the missing blocks")
  func shortDevice() throws {
    var random = SplitMix64(seed: seed())
    let device = FileDevice(
      adopting: try numberedFile(blocks: 500), path: "memory",
      byteCount: UInt64(Self.blocks * 4096))
    let stream = BlockStream(device)
    for _ in 0..<60 { expectDelivery(stream, Self.list(&random)) { $0 >= 500 } }
  }

  @Test(
    "bad sectors cost exactly their blocks, with a queue and without", arguments: [true, false])
  func badSectors(hasDescriptor: Bool) throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<20 {
      let bad = Set((0..<30).map { _ in UInt64.random(in: 0..<600, using: &random) })
      let inner = FileDevice(
        adopting: try numberedFile(blocks: Self.blocks), path: "memory",
        byteCount: UInt64(Self.blocks * 4096))
      let device = BadSectorDevice(
        inner, bad: bad,
        descriptor: hasDescriptor ? open("/dev/null", O_WRONLY | O_CLOEXEC) : nil)
      let stream = BlockStream(device)
      for _ in 0..<4 {
        expectDelivery(stream, Self.list(&random)) { $0 >= 600 || bad.contains($0) }
      }
    }
  }

  @Test("a reader that stops midway leaves the stream usable")
  func stopping() throws {
    var random = SplitMix64(seed: seed())
    // A file on a disk: requests for one in memory are never in flight.
    let folder = try ScratchFolder()
    let memory = try numberedFile(blocks: Self.blocks)
    let path = try folder.copy(of: "/proc/self/fd/\(memory)", as: "device")
    close(memory)
    let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    let stream = BlockStream(device)
    for _ in 0..<60 {
      var left = Int.random(in: 0..<100, using: &random)
      var at: UInt64 = 0
      #expect(throws: Stop.self) {
        try stream.read(
          next: {
            at += 7
            return at
          },
          body: { _, _, _ in
            left -= 1
            if left < 0 { throw Stop() }
          })
      }
      expectDelivery(stream, Self.list(&random)) { $0 >= UInt64(Self.blocks) }
    }
  }
}
