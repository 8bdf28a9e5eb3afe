import Simulation
import TestSupport
import Testing

@testable import ThinTools

/// The map of an image, in the form of GNU ddrescue.
@Suite struct RescueMapTests {
  @Test("ranges that are set one after the other are those of a plain list")
  func model() {
    var random = SplitMix64(seed: seed())
    for _ in 0..<50 {
      let size = UInt64.random(in: 1...200, using: &random)
      var map = RescueMap(byteCount: size)
      var model = [RescueMap.Status](repeating: .untried, count: Int(size))
      for _ in 0..<60 {
        let begin = UInt64.random(in: 0..<size, using: &random)
        let end = UInt64.random(in: begin...size, using: &random)
        let status = RescueMap.Status.allCases[Int.random(in: 0..<5, using: &random)]
        map.set(begin..<end, status)
        for i in begin..<end { model[Int(i)] = status }
      }
      var found: [RescueMap.Status] = []
      var last: RescueMap.Status?
      map.forEach { range, status in
        #expect(UInt64(found.count) == range.lowerBound && status != last && !range.isEmpty)
        found += Array(repeating: status, count: Int(range.upperBound - range.lowerBound))
        last = status
      }
      #expect(found == model)
      for status in RescueMap.Status.allCases {
        #expect(map.bytes(status) == UInt64(model.count { $0 == status }))
        let from = UInt64.random(in: 0..<size, using: &random)
        let next = model.indices.first { UInt64($0) >= from && model[$0] == status }
        #expect(map.next(from: from, [status])?.lowerBound == next.map { UInt64($0) })
      }
    }
  }

  @Test("what is written is read back, comments too")
  func roundTrip() throws {
    var map = RescueMap(byteCount: 1 << 41)
    map.set(0..<4096, .finished)
    map.set(8192..<12288, .bad)
    map.set((1 << 40)..<(1 << 40 + 512), .untrimmed)
    map.position = 8192
    map.phase = .unscraped
    let text = map.text(comments: ["one", "a\nb"])
    let (read, comments) = try RescueMap.parse(Array(text.utf8), path: "map")
    #expect(read == map)
    #expect(comments.prefix(2) == ["one", "a?b"])
    let empty = RescueMap(byteCount: 0)
    #expect(
      try RescueMap.parse(Array(empty.text(comments: []).utf8), path: "map").map.byteCount == 0)
  }

  @Test("a map as ddrescue writes it is read")
  func foreign() throws {
    let text = """
      # Mapfile. Created by GNU ddrescue version 1.27
      # Command line: ddrescue -d /dev/sdc hdimage mapfile
      # current_pos  current_status  current_pass
      0x00120000     ?               1
      #      pos        size  status
      0x00000000  0x00117000  +
      0x00117000  0x00000200  -
      0x00117200  0x00001000  /
      0x00118200  0x00007E00  *
      0x00120000  0x00048000  ?
      """
    let map = try RescueMap.parse(Array(text.utf8), path: "map").map
    #expect(map.byteCount == 0x168000 && map.position == 0x120000 && map.count == 5)
    #expect(map.bytes(.bad) == 512 && map.bytes(.unscraped) == 4096)
    // One without a pass, as older versions write it, and with another status of the whole.
    let old = text.replacing("?               1", with: "F")
    #expect(try RescueMap.parse(Array(old.utf8), path: "map").map.byteCount == 0x168000)
  }

  @Test(
    "a malformed map is refused with its line",
    arguments: [
      ("", "empty"), ("# only a comment\n", "empty"), ("hello\n", "line 1"),
      ("0x0 ? 1\n0x0 0x10\n", "line 2"), ("0x0 ? 1\n0x0 0x10 x\n", "line 2"),
      ("0x0 ? 1\n0x10 0x10 +\n", "line 2"), ("0x0 ? 1\n0x0 0x10 +\n0x8 0x10 -\n", "line 3"),
      ("0x0 ? 1\n0x0 0x0 +\n", "line 2"), ("0x0 ? 1\n0x0 0xFFFFFFFFFFFFFFFF +\n", "line 2"),
      ("0x0 ? 1\n0x0 0x7FFFFFFFFFFFFFFF +\n0x7FFFFFFFFFFFFFFF 0x1 -\n", "line 3"),
      ("0x0 Q 1\n", "line 1"), ("0xZZ ? 1\n", "line 1"), ("0x0 ? 1 2\n", "line 1"),
    ])
  func malformed(_ text: String, _ place: String) {
    let error = #expect(throws: ToolError.self) {
      try RescueMap.parse(Array(text.utf8), path: "map")
    }
    #expect(error?.message.contains(place) == true, "\(error?.message ?? "")")
  }

  @Test("any bytes are a map or an error")
  func anyBytes() {
    var random = SplitMix64(seed: seed())
    let signs = Array("0x19fF \n\t#?*/-+A".utf8)
    for _ in 0..<5000 {
      let bytes = (0..<Int.random(in: 0...80, using: &random)).map { _ in
        signs.randomElement(using: &random) ?? 0
      }
      guard var map = try? RescueMap.parse(bytes, path: "map").map else { continue }
      // A complete map says so.
      if map.isComplete { map.phase = .finished }
      #expect((try? RescueMap.parse(Array(map.text(comments: []).utf8), path: "map").map) == map)
    }
  }
}
