import Glibc
import TestSupport
import Testing

/// Each tool accepts the output of the tool before it.
@Suite struct ChainTests {
  /// Restores a dump and expects a dump of the result to have the same contents.
  private func expectRestores(_ dump: String, in folder: ScratchFolder, _ options: String...) throws
  {
    let image = try folder.zeros("image", size: 8 << 20)
    let restored = try run([Tools.path("thin_restore"), "-i", dump, "-o", image] + options)
    #expect(restored.status == 0, "\(restored.errors)")
    #expect(try ours("thin_check", "--strict", image).status == 0)
    let text = String(decoding: try contents(of: dump), as: UTF8.self)
    let again = try ours("thin_dump", image)
    #expect(again.status == 0)
    // How a dump shows sharing depends on where leaves begin, so only the contents are compared.
    #expect(DumpedPool(xml: again.text) == DumpedPool(xml: text))
    let listed = try ours("thin_ls", "--no-headers", "-o", "DEV,MAPPED_BLOCKS", image)
    #expect(listed.status == 0)
    #expect(
      listed.text.split(separator: "\n").count == text.split(separator: "<device ").count - 1)
  }

  @Test(
    "a dump can be restored, and the result is checked, listed and dumped again",
    arguments: Pools.names)
  func dumps(_ name: String) throws {
    let pool = try Pools.path(name)
    let folder = try ScratchFolder()
    for options in [[], ["--repair"], ["-m"]] {
      if options == ["-m"] && name != "held-metadata-snapshot" { continue }
      let dump = folder.file("xml")
      let result = try run([Tools.path("thin_dump")] + options + ["-o", dump, pool])
      #expect(result.status == 0, "\(result.errors)")
      try expectRestores(dump, in: folder)
    }
    let ids = try ours("thin_ls", "--no-headers", "-o", "DEV", pool).text.split(separator: "\n")
    guard let id = ids.last?.filter(\.isNumber) else { return }
    let one = folder.file("one")
    #expect(try ours("thin_dump", "--dev-id", id, "-o", one, pool).status == 0)
    try expectRestores(one, in: folder)
  }

  @Test("the number of a metadata snapshot is accepted in every form, by every tool that has -m")
  func snapshotNumber() throws {
    let pool = try Pools.path("held-metadata-snapshot")
    let root = try contents(of: pool)[56..<64].reversed().reduce(0) { $0 << 8 | Int($1) }
    for tool in ["thin_dump", "thin_check", "thin_ls"] {
      let plain = try ours(tool, "-m", pool)
      #expect(plain.status == 0 && !plain.output.isEmpty)
      for form in [
        ["-m", "\(root)", pool], [pool, "-m", "\(root)"], ["-m\(root)", pool],
        ["-m=\(root)", pool],
        ["--metadata-snap", "\(root)", pool], [pool, "--metadata-snap=\(root)"], [pool, "-m"],
      ] {
        let result = try run([Tools.path(tool)] + form)
        #expect(result.status == 0 && result.output == plain.output, "\(tool) \(form)")
      }
      let other = try ours(tool, "-m", "\(root + 1)", pool)
      #expect(other.status == 64 && other.output.isEmpty)
      #expect(other.errors.contains("at block \(root): give -m \(root)"), "\(other.errors)")
    }
  }

  @Test(
    "a dump of a metadata snapshot by another tool restores with the number that the error names")
  func peersSnapshot() throws {
    let folder = try ScratchFolder()
    let xml = try folder.file(
      "xml", bytes: peers("thin_dump", "-m", Pools.path("held-metadata-snapshot")).output)
    let image = try folder.zeros("image", size: 8 << 20)
    let refused = try ours("thin_restore", "-i", xml, "-o", image)
    #expect(refused.status == 64 && refused.errors.contains("give it with --nr-data-blocks"))
    let restored = try ours("thin_restore", "-i", xml, "-o", image, "--nr-data-blocks", "100000")
    #expect(restored.status == 0, "\(restored.errors)")
    #expect(try ours("thin_check", "--strict", image).status == 0)
  }

  @Test("a missing device is reported before anything is written")
  func unknownDevice() throws {
    let folder = try ScratchFolder()
    let out = try folder.file("out", text: "yesterday's")
    let result = try ours(
      "thin_dump", "--dev-id", "999", "--dev-id", "0", "--dev-id", "1000", "-o", out,
      Pools.path("device-ids"))
    #expect(result.status == 64 && result.output.isEmpty)
    #expect(result.errors.contains("no thin device 999, 1000;"), "\(result.errors)")
    #expect(result.errors.contains("thin_ls"))
  }
}
