import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing

@Suite struct FileDeviceTests {
  @Test("pieces are written where they belong, however many are neighbours")
  func pieces() throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<40 {
      let blocks = 400
      let device = FileDevice(
        adopting: try numberedFile(blocks: blocks), path: "memory", byteCount: UInt64(blocks) * 4096
      )
      let memory = AlignedBuffer(count: blocks * 4096)
      for i in memory.bytes.indices { memory.bytes[i] = UInt8.random(in: 0...255, using: &random) }
      // Runs of up to some hundred blocks, and pieces of one to three.
      let gap = [2, 20, 300].randomElement(using: &random) ?? 2
      var (pieces, expected) = ([BlockPiece](), (0..<blocks).map { UInt64($0) as UInt64? })
      var at = 0
      while at < blocks {
        let count = min(blocks - at, Int.random(in: 1...3, using: &random))
        if Int.random(in: 0..<gap, using: &random) > 0 {
          pieces.append(
            BlockPiece(memory.block(at, count: count), at: UInt64(at) * 4096))
          for block in at..<(at + count) { expected[block] = nil }
        }
        at += count
      }
      try device.write(pieces)
      let found = AlignedBuffer(count: blocks * 4096)
      try device.read(into: found.bytes, at: 0)
      for block in 0..<blocks {
        let now = found.block(block)
        let isRight =
          expected[block].map { now.load(as: UInt64.self) == $0 }
          ?? now.elementsEqual(memory.block(block))
        #expect(isRight, "block \(block)")
      }
    }
  }

  @Test("an error among neighbours names its place, and what was before it is written")
  func error() throws {
    let device = FileDevice(
      adopting: try numberedFile(blocks: 20), path: "memory", byteCount: 20 * 4096)
    let memory = AlignedBuffer(count: 10 * 4096)
    memory.bytes.initializeMemory(as: UInt64.self, repeating: 77)
    // The system cannot read it, so that one call writes the first blocks only.
    try #require(mprotect(memory.bytes.baseAddress.map { $0 + 6 * 4096 }, 4096, PROT_NONE) == 0)
    let pieces = (0..<10).map { block in
      BlockPiece(memory.block(block), at: UInt64(block + 5) * 4096)
    }
    #expect {
      try device.write(pieces)
    } throws: { error in
      (error as? BlockIOError)?.offset == 11 * 4096 && (error as? BlockIOError)?.code == EFAULT
    }
    let found = AlignedBuffer(count: 20 * 4096)
    try device.read(into: found.bytes, at: 0)
    for block in 0..<20 {
      #expect(
        found.block(block).load(as: UInt64.self) == ((5..<11).contains(block) ? 77 : UInt64(block)))
    }
  }

  @Test("memory that there is not is refused where its size comes from a disk")
  func memory() {
    #expect(AlignedBuffer(ifAvailable: 1 << 60) == nil)
    #expect(AlignedBuffer(ifAvailable: 1)?.bytes.count == 4096)
  }
}

extension AlignedBuffer {
  fileprivate func block(_ number: Int, count: Int = 1) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: bytes[(number * 4096)..<((number + count) * 4096)])
  }
}
