import Simulation
import TestSupport
import Testing

/// Packed metadata: our programs and the peer's read each other's files without loss.
@Suite struct PackTests {
  private func unpacked(_ tool: String, _ file: String, _ folder: ScratchFolder) throws -> [UInt8]?
  {
    let image = folder.file("unpacked-\(UInt64.random(in: 0 ... .max))")
    let result = try run([tool, "-i", file, "-o", image])
    return result.status == 0 ? try contents(of: image) : nil
  }

  private func expectPacks(_ image: String, _ folder: ScratchFolder, _ comment: String) throws {
    let original = try contents(of: image)
    let (a, b) = (folder.file("a.pack"), folder.file("b.pack"))
    #expect(try ours("thin_metadata_pack", "-f", "-i", image, "-o", a).status == 0, "\(comment)")
    let (pack, unpack) = (
      try Peer.path("thin_metadata_pack"), try Tools.path("thin_metadata_unpack")
    )
    // Our unpack restores every image exactly.
    #expect(try unpacked(unpack, a, folder) == original, "\(comment)")
    // The peer's unpack reads our files and leaves out invalid blocks. Its pack also drops chunks.
    #expect(try run([pack, "-f", "-i", image, "-o", b]).status == 0)
    let theirs = try Peer.path("thin_metadata_unpack")
    #expect(try unpacked(unpack, b, folder) == unpacked(theirs, b, folder), "\(comment)")
    let blocks = try #require(try unpacked(theirs, a, folder))
    #expect(blocks.count == original.count)
    for start in stride(from: 0, to: min(blocks.count, original.count), by: 4096) {
      let block = blocks[start..<(start + 4096)]
      guard block != original[start..<(start + 4096)] else { continue }
      #expect(block.allSatisfy { $0 == 0 }, "\(comment): block \(start / 4096)")
    }
  }

  @Test("the kernel's pools can be packed and unpacked by both", arguments: Pools.names)
  func kernelPools(_ name: String) throws {
    let folder = try ScratchFolder()
    try expectPacks(Pools.path(name), folder, name)
    let (size, peers) = (
      try contents(of: folder.file("a.pack")).count, try contents(of: folder.file("b.pack")).count
    )
    // Our format has an end mark, which shows whether a file is complete; it matters for the size
    // of tiny files only.
    #expect(Double(size) <= 1.1 * Double(peers) + 128, "\(size) bytes, the peer's \(peers)")
  }

  @Test("generated pools can be packed and unpacked by both, damaged blocks included")
  func madeUp() throws {
    let first = seed()
    let folder = try ScratchFolder()
    for number in 0..<(environment("DMTHIN_PACKS").flatMap { UInt64($0) } ?? 12) {
      let trial = try RepairTrial(seed: first &+ number)
      let image = try folder.file("image", bytes: trial.bytes)
      try expectPacks(image, folder, "seed \(first) + \(number)")
    }
  }

  @Test("a damaged or truncated file is refused with the place, and the old output stays")
  func damaged() throws {
    let folder = try ScratchFolder()
    let pack = folder.file("pool.pack")
    #expect(try ours("thin_metadata_pack", "-i", Pools.path("multi-level"), "-o", pack).status == 0)
    let bytes = try contents(of: pack)
    var random = SplitMix64(seed: seed())
    let image = try folder.file("image", text: "what was there")
    for _ in 0..<60 {
      var wrong = bytes
      if Bool.random(using: &random) {
        wrong[Int.random(in: 0..<wrong.count, using: &random)] ^=
          1 << UInt8.random(in: 0..<8, using: &random)
      } else {
        wrong.removeLast(.random(in: 1..<wrong.count, using: &random))
      }
      let file = try folder.file("wrong", bytes: wrong)
      let result = try ours("thin_metadata_unpack", "-i", file, "-o", image)
      // Cut just before the end mark, the file looks like a complete file of other versions.
      if result.status == 0 {
        #expect(result.errors.contains("has no end mark"))
        _ = try folder.file("image", text: "what was there")
        continue
      }
      #expect([64, 66].contains(result.status), "\(result.errors)")
      #expect(String(decoding: try contents(of: image), as: UTF8.self) == "what was there")
    }
  }

  @Test("a metadata snapshot is packed with all its blocks, and read with -m")
  func snapshot() throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path("held-metadata-snapshot")
    let (pack, image) = (folder.file("pack"), folder.file("image"))
    #expect(try ours("thin_metadata_pack", "-m", "-i", pool, "-o", pack).status == 0)
    #expect(try ours("thin_metadata_unpack", "-i", pack, "-o", image).status == 0)
    #expect(try ours("thin_dump", "-m", image).output == ours("thin_dump", "-m", pool).output)
  }

  @Test("metadata is not overwritten without --force, and never the input")
  func precious() throws {
    let folder = try ScratchFolder()
    let image = try folder.copy(of: Pools.path("fresh"), as: "image")
    let pack = folder.file("pack")
    #expect(try ours("thin_metadata_pack", "-i", image, "-o", image).status == 73)
    #expect(try ours("thin_metadata_pack", "-i", image, "-o", pack).status == 0)
    #expect(try ours("thin_metadata_unpack", "-i", pack, "-o", image).status == 73)
    #expect(try ours("thin_metadata_unpack", "-i", pack, "-o", pack).status == 73)
    #expect(try ours("thin_metadata_unpack", "-f", "-i", pack, "-o", image).status == 0)
    #expect(try ours("thin_metadata_unpack", "-i", image, "-o", folder.file("new")).status == 66)
  }
}
