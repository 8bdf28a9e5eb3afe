import BlockIO
import Simulation
import TestSupport
import Testing

@testable import DataPath

@Suite struct RequestMemoryTests {
  @Test(
    "memory in pieces holds what memory in one piece would, from any place on", arguments: 0..<64)
  func model(_ number: UInt64) throws {
    var random = SplitMix64(seed: seed() &+ number)
    let count = Int.random(in: 1...6, using: &random)
    let storage = AlignedBuffer(count: 4096)
    let base = try #require(storage.bytes.baseAddress)
    let pieces = UnsafeMutablePointer<RequestMemory.Piece>.allocate(capacity: count)
    defer { pieces.deallocate() }
    // From the end of the storage to its start, with pieces of no bytes among them.
    var places: [Int] = []
    var end = 4096
    for index in 0..<count {
      let bytes = Int.random(in: 0...3, using: &random) * Int.random(in: 0...200, using: &random)
      end -= bytes + 1
      pieces[index] = RequestMemory.Piece(start: base + end, byteCount: bytes)
      places += end..<(end + bytes)
    }
    let memory = RequestMemory(pieces: pieces)
    var model = places.map { _ in UInt8.random(in: 0...255, using: &random) }
    memory.copy(from: model, model.count)
    for _ in 0..<20 {
      let from = Int.random(in: 0...model.count, using: &random)
      let to = Int.random(in: from...model.count, using: &random)
      let middle = Int.random(in: from...to, using: &random)
      // In two steps, as parts of parts come to be.
      let part = memory.advanced(by: from).advanced(by: middle - from)
      if Bool.random(using: &random) {
        part.zero(to - middle)
        for i in middle..<to { model[i] = 0 }
      }
      var read = [UInt8](repeating: 1, count: to - middle)
      part.copy(to: &read, read.count)
      #expect(read == Array(model[middle..<to]))
      #expect(places.map { storage.bytes[$0] } == model)
      let first = part.firstPiece(to - middle)
      let isAtStart = to == middle || first.baseAddress == base + places[middle]
      #expect(isAtStart)
    }
    // Nothing was written between the pieces.
    let between = Set(0..<4096).subtracting(places)
    #expect(between.allSatisfy { storage.bytes[$0] == 0 })
  }
}
