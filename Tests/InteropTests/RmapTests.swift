import Simulation
import TestSupport
import Testing

/// Compares the output of `thin_rmap` with the peer's, and with the sharing that a dump shows.
/// `DMTHIN_RMAPS` is the number of generated pools.
@Suite struct RmapTests {
  /// The lines that `thin_rmap` should print, computed from the mappings in a dump.
  private func expected(_ image: String, _ regions: [Range<UInt64>], _ state: [String] = []) throws
    -> [String]
  {
    let model = DumpedPool(xml: try run([Tools.path("thin_dump")] + state + [image]).text)
    return model.reverseRows(regions).map { row in
      "data \(row.data.lowerBound)..\(row.data.upperBound) -> thin(\(row.device)) "
        + "\(row.virtual)..\(row.virtual + UInt64(row.data.count))"
    }
  }

  private func expectRight(_ image: String, _ regions: [Range<UInt64>], _ comment: String) throws {
    let options = regions.flatMap { ["--region", "\($0.lowerBound)..\($0.upperBound)"] }
    let a = try run([Tools.path("thin_rmap")] + options + [image])
    #expect(a.status == 0 && a.errors.isEmpty, "\(comment): \(a.errors)")
    let lines = a.text.split(separator: "\n").map { String($0) }
    #expect(try lines == expected(image, regions), "\(comment): \(options)")
    let all = regions.isEmpty ? ["--region", "0..100000000"] : options
    let b = try run([Peer.path("thin_rmap")] + all + [image])
    #expect(b.status == 0)
    // For a leaf that several devices share, the peer prints only one of them, and splits runs
    // there.
    if try isWithoutSharing(image) {
      #expect(a.text == b.text, "\(comment): \(options)")
    } else {
      let told = Set(lines)
      let cut = b.text.split(separator: "\n").filter { !told.contains(String($0)) }
      for line in cut { #expect(contains(lines, String(line)), "\(comment): \(line)") }
    }
  }

  private func isWithoutSharing(_ image: String) throws -> Bool {
    try !ours("thin_dump", image).text.contains("<def ")
  }

  /// Whether one of `lines` covers the whole run in `line`.
  private func contains(_ lines: [String], _ line: String) -> Bool {
    func numbers(_ line: String) -> [UInt64] {
      line.split { !$0.isNumber }.compactMap { UInt64($0) }
    }
    let own = numbers(line)
    return lines.contains {
      let other = numbers($0)
      return other[2] == own[2] && other[0] <= own[0] && own[1] <= other[1]
        && other[3] + (own[0] - other[0]) == own[3]
    }
  }

  @Test(
    "owners of the kernel's pools are those of their dumps, and the peer's", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let pool = try Pools.path(name)
    try expectRight(pool, [], name)
    try expectRight(pool, [3..<40, 30..<50, 60..<61], name)
  }

  @Test("for a metadata snapshot it lists the owners in the snapshot")
  func snapshot() throws {
    let pool = try Pools.path("held-metadata-snapshot")
    let lines = try ours("thin_rmap", "-m", pool).text.split(separator: "\n").map { String($0) }
    #expect(try lines == expected(pool, [], ["-m"]) && !lines.isEmpty)
  }

  @Test("owners in generated pools are those of their dumps, and the peer's")
  func madeUp() throws {
    let first = seed()
    let folder = try ScratchFolder()
    for number in 0..<(environment("DMTHIN_RMAPS").flatMap { Int($0) } ?? 25) {
      var random = SplitMix64(seed: first &+ UInt64(number))
      let text = try folder.file("xml", text: devices(&random))
      let image = try folder.zeros("image", size: 2 << 20)
      #expect(try ours("thin_restore", "-q", "-i", text, "-o", image).status == 0)
      let begin = UInt64.random(in: 0..<900, using: &random)
      let length = UInt64.random(in: 1..<300, using: &random)
      for regions in [
        [], [begin..<(begin + length)], [begin..<(begin + 5), (begin + 3)..<(begin + 90)],
      ] {
        try expectRight(image, regions, "seed \(first) + \(number)")
      }
    }
  }

  /// Devices with runs of their own, and with data blocks that two devices share.
  private func devices(_ random: inout SplitMix64) -> String {
    var text = ""
    for id in 1...Int.random(in: 1...5, using: &random) {
      var (key, mapped, body) = (0, 0, "")
      var data = Int.random(in: 0..<300, using: &random)
      for _ in 0..<Int.random(in: 0...40, using: &random) {
        let length = Int.random(in: 1...9, using: &random)
        body +=
          "<range_mapping origin_begin=\"\(key)\" data_begin=\"\(data)\" length=\"\(length)\" time=\"1\"/>\n"
        mapped += length
        key += length + Int.random(in: 0...2, using: &random)
        data += length + Int.random(in: 0...2, using: &random)
      }
      text +=
        "<device dev_id=\"\(id)\" mapped_blocks=\"\(mapped)\" transaction=\"0\" creation_time=\"0\" "
        + "snap_time=\"1\">\n\(body)</device>\n"
    }
    return
      "<superblock uuid=\"\" time=\"1\" transaction=\"1\" version=\"2\" data_block_size=\"128\" "
      + "nr_data_blocks=\"2000\">\n\(text)</superblock>"
  }

  @Test("invalid regions are refused as by the peer, and JSON has the same rows")
  func regions() throws {
    let pool = try Pools.path("snapshots-of-snapshots")
    for region in ["5..5", "9..3", "10-20", "10..x", "5", "", "1..2..3"] {
      #expect(try ours("thin_rmap", "--region", region, pool).status == 2, "\(region)")
    }
    #expect(try ours("thin_rmap", "--region", "1000000..1000001", pool).output.isEmpty)
    let json = try ours("thin_rmap", "--json", pool)
    let lines = try shell(
      "printf '%s' '\(json.text)' | jq -r "
        + "'.runs[] | \"data \\(.data_begin)..\\(.data_end) -> thin(\\(.dev_id)) \\(.begin)..\\(.end)\"'"
    )
    #expect(try lines.text == ours("thin_rmap", pool).text && lines.status == 0)
  }
}
