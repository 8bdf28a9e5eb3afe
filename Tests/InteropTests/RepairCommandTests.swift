import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat

/// `thin_repair` as lvm2, stratis and users call it, and beside the peer's.
@Suite struct RepairCommandTests {
  private func dump(_ image: String) throws -> String {
    withoutNames(try ours("thin_dump", image).text)
  }

  @Test("of sound pools it saves what the peer's saves", arguments: Pools.names)
  func soundPools(_ name: String) throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path(name)
    let size = UInt64(try contents(of: pool).count)
    let (a, b) = (try folder.zeros("a", size: size), try folder.zeros("b", size: size))
    #expect(try ours("thin_repair", "-q", "-i", pool, "-o", a).status == 0)
    // The peer is fooled by a pool whose only mapping is of data block 0, and by devices alone.
    guard try peers("thin_repair", "-q", "-i", pool, "-o", b).status == 0 else { return }
    let (x, y) = (DumpedPool(xml: try dump(a)), DumpedPool(xml: try dump(b)))
    #expect(x.devices == y.devices)
    for image in [a, b] { #expect(try peers("thin_check", image).status == 0) }
  }

  @Test("every form of the command line that lvm2 and stratis use is taken")
  func callers() throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path("snapshots-of-snapshots")
    let expected = withoutNames(try ours("thin_dump", pool).text)
    for (extra, comment) in [
      ([], "stratis, and lvm2 without options"), ([""], "an empty thin_repair_options"),
      (["-q"], "-q"), (["dummy"], "the stray argument of older lvm2"),
      (["", "dummy"], "both"), (["--transaction-id", "0"], "lower"),
      (["-v", "--io-engine", "sync"], "old"),
    ] {
      let image = try folder.zeros("image", size: 8 << 20)
      let result = try run(
        [Tools.path("thin_repair")] + extra + ["-i", pool, "-o", image])
      #expect(result.status == 0, "\(comment): \(result.errors)")
      #expect(try dump(image) == expected, "\(comment)")
    }
    #expect(try ours("thin_repair", "-i", pool).status == 2)
    #expect(try ours("thin_repair", "-o", pool).status == 2)
    #expect(try ours("thin_repair", "-i", pool, "-o", pool).status == 73)
  }

  @Test("the report tells bytes and blocks of what is lost, as text and as JSON, and what to do")
  func report() throws {
    let folder = try ScratchFolder()
    // Restored, so that there is no earlier generation whose mappings could take the place of lost ones.
    let xml = folder.file("pool.xml")
    #expect(try ours("thin_dump", "-o", xml, Pools.path("multi-level")).status == 0)
    let whole = try folder.zeros("whole", size: 8 << 20)
    #expect(try ours("thin_restore", "-i", xml, "-o", whole).status == 0)
    let device = try MemoryDevice(contentsOf: whole)
    let catalogue = try BlockCatalogue(device)
    let leaf = try #require(catalogue.blocks[.node(.mappings, isLeaf: true)]?.first)
    device.wipe(leaf)
    let pool = try folder.file(
      "pool", bytes: (0..<(device.byteCount / 4096)).flatMap { Array(device.peek($0)) })
    let image = try folder.zeros("image", size: 8 << 20)
    let text = folder.file("report")
    let result = try ours("thin_repair", "-i", pool, "-o", image, "--report", text)
    #expect(result.status == 0 && result.text.contains("  lost: virtual blocks "))
    #expect(result.text.contains("The result needs ") && result.text.contains("next: thin_check "))
    #expect(result.errors.contains("(block \(leaf))"))
    let kept = String(decoding: try contents(of: text), as: UTF8.self)
    #expect(kept.contains("  lost: virtual blocks ") && kept.contains("Keep \(pool) as it is"))
    let json = try ours("thin_repair", "--dry-run", "--json", "-i", pool)
    #expect(json.status == 0)
    let ranges = try shell(
      "printf '%s' '\(json.text)' | jq -r '.whole, (.devices[].ranges[] | .end_byte - .begin_byte)'"
    )
    #expect(ranges.status == 0 && ranges.text.hasPrefix("false\n"))
    #expect(try ours("thin_repair", "--dry-run", "-i", pool, "--report", pool).status == 73)
  }

  @Test("failed writes leave no metadata that looks whole, and say so")
  func failedWrites() throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path("multi-level")
    let tool = try Tools.path("thin_repair")
    let image = try folder.zeros("image", size: 32 << 20)
    // The temporary file stays below the limit, and the end of the output is beyond it.
    let result = try shell("ulimit -f 1000; ulimit -c 0; exec '\(tool)' -i '\(pool)' -o '\(image)'")
    #expect(result.status == 73 || result.status == 74)
    #expect(try contents(of: image).prefix(4096).allSatisfy { $0 == 0 })
    let noRoom = try shell("TMPDIR=/no/such/folder '\(tool)' -i '\(pool)' -o '\(image)'")
    #expect(noRoom.status == 73 && noRoom.errors.contains("/no/such/folder"))
  }
}
