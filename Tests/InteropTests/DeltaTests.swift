import Simulation
import TestSupport
import Testing

/// Compares the output of `thin_delta` with the peer's. `DMTHIN_DELTAS` is the number of generated
/// pools.
@Suite struct DeltaTests {
  /// Joins ranges with consecutive virtual blocks, whatever their data blocks are. The peer joins
  /// them too, although the data block it prints is then right only for the first of them.
  private func joined(_ text: String) -> String {
    var lines: [Substring] = []
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      var old = (lines.last ?? "").split(separator: "\"", omittingEmptySubsequences: false)
      let new = line.split(separator: "\"", omittingEmptySubsequences: false)
      if line.hasPrefix("      <range"), old.count == new.count, let begin = UInt64(new[1]),
        let oldBegin = UInt64(old[1]), let oldLength = UInt64(old[old.count - 2]),
        let length = UInt64(new[new.count - 2]), oldBegin + oldLength == begin
      {
        old[old.count - 2] = "\(oldLength + length)"
        lines[lines.count - 1] = Substring(old.joined(separator: "\""))
      } else {
        lines.append(line)
      }
    }
    return lines.joined(separator: "\n")
  }

  private func expectEqual(_ arguments: [String], _ comment: String) throws {
    let (a, b) = (
      try run([Tools.path("thin_delta")] + arguments),
      try run([Peer.path("thin_delta")] + arguments)
    )
    #expect(a.status == 0 && b.status == 0 && a.errors.isEmpty, "\(comment): \(a.errors)")
    // The peer prints 0 data blocks for a metadata snapshot.
    let count = a.text.split(separator: "nr_data_blocks=\"").last?.prefix { $0 != "\"" } ?? ""
    let peers = b.text.replacing("nr_data_blocks=\"0\"", with: "nr_data_blocks=\"\(count)\"")
    let isEqual = (arguments.contains("--verbose") ? joined(a.text) : a.text) == peers
    #expect(isEqual, "\(comment): \(arguments)")
  }

  @Test("differences of the kernel's devices equal the peer's", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let pool = try Pools.path(name)
    let state = name == "held-metadata-snapshot" ? ["-m"] : []
    let list = try run([Tools.path("thin_ls"), "--no-headers", "-o", "DEV", pool] + state).text
    let ids = list.split { " \n".contains($0) }.prefix(5)
    for (left, right) in zip(ids, ids.dropFirst() + ids.prefix(1)) {
      let sides = ["--thin1", "\(left)", "--snap2", "\(right)", pool]
      try expectEqual(state + sides, name)
      try expectEqual(state + ["--verbose"] + sides, name)
    }
  }

  @Test("differences of generated devices equal the peer's")
  func madeUp() throws {
    let first = seed()
    let folder = try ScratchFolder()
    for number in 0..<(environment("DMTHIN_DELTAS").flatMap { Int($0) } ?? 25) {
      var random = SplitMix64(seed: first &+ UInt64(number))
      let text = try folder.file("xml", text: twoDevices(&random))
      let image = try folder.zeros("image", size: 2 << 20)
      #expect(try ours("thin_restore", "-q", "-i", text, "-o", image).status == 0)
      for extra in [[], ["--verbose"]] {
        try expectEqual(
          extra + ["--thin1", "1", "--thin2", "2", image], "seed \(first) + \(number)")
      }
    }
  }

  @Test("missing devices and damage are reported, and no result is printed")
  func sides() throws {
    let pool = try Pools.path("snapshots-of-snapshots")
    let absent = try ours("thin_delta", "--thin1", "1", "--thin2", "99", pool)
    #expect(absent.status == 64 && absent.text.isEmpty)
    #expect(absent.errors.contains("no thin device 99"))
    let wrong = try ours("thin_delta", "--root1", "0", "--thin2", "2", pool)
    #expect(wrong.status == 64 && wrong.text.isEmpty && wrong.errors.contains("block 0"))
    #expect(try ours("thin_delta", "--thin1", "1", pool).status == 2)
    #expect(
      try ours("thin_delta", "--thin1", "1", "--root1", "9", "--thin2", "2", pool).status == 2)
  }

  /// Two devices that share some mappings, have some of their own, and gaps.
  private func twoDevices(_ random: inout SplitMix64) -> String {
    var bodies = ["", ""]
    var mapped = [0, 0]
    func map(_ side: Int, _ key: Int, _ data: Int, _ length: Int) {
      bodies[side] +=
        "<range_mapping origin_begin=\"\(key)\" data_begin=\"\(data)\" length=\"\(length)\" "
        + "time=\"\(Int.random(in: 0...2, using: &random))\"/>\n"
      mapped[side] += length
    }
    var (key, data) = (0, 0)
    for _ in 0..<Int.random(in: 0...60, using: &random) {
      let length = Int.random(in: 1...6, using: &random)
      switch Int.random(in: 0..<5, using: &random) {
      case 0, 1:
        map(0, key, data, length)
        map(1, key, data, length)
      case 2: map(0, key, data, length)
      case 3: map(1, key, data, length)
      default:
        map(0, key, data, length)
        map(1, key, data + length, length)
        data += length
      }
      key += length + max(0, .random(in: -3...3, using: &random))
      data += length + max(0, .random(in: -3...3, using: &random))
    }
    let devices = (0..<2).map { side in
      "<device dev_id=\"\(side + 1)\" mapped_blocks=\"\(mapped[side])\" transaction=\"0\" "
        + "creation_time=\"0\" snap_time=\"0\">\n\(bodies[side])</device>\n"
    }
    return
      "<superblock uuid=\"\" time=\"2\" transaction=\"1\" version=\"2\" data_block_size=\"128\" "
      + "nr_data_blocks=\"2000\">\n\(devices.joined())</superblock>"
  }
}
