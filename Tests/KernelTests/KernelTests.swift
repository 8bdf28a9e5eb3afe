import TestSupport
import Testing

/// The tools and the kernel on the same pools, in the rig of `contrib/kernel`.
@Suite(.serialized) struct KernelTests {
  /// The environment for the scripts: the tools under test, and the peer's for comparison.
  private func environment() throws -> String {
    let tools = try Tools.folder.get()
    let peer = try Peer.path("thin_check").dropLast("/thin_check".count)
    return "DMTHIN_TOOLS='\(tools)' DMTHIN_PEER='\(peer)'"
  }

  /// Runs a scenario and returns its output.
  @discardableResult
  private func play(_ scenario: String, _ images: String...) throws -> String {
    let kernel = "\(Repository.root)/contrib/kernel"
    let words = images.map { "'\($0)'" }.joined(separator: " ")
    let result = try shell(
      "\(try environment()) '\(kernel)/run' '\(kernel)/scenarios/\(scenario).sh' \(words)")
    #expect(result.status == 0, "\(scenario): \(result.text)\(result.errors)")
    return result.text
  }

  private func copy(_ name: String, to folder: ScratchFolder) throws -> (meta: String, data: String)
  {
    let (meta, data) = (folder.file("meta"), folder.file("data"))
    let result = try shell(
      "cp --sparse=always '\(try Pools.path(name))' '\(meta)' && "
        + "cp --sparse=always '\(try Pools.dataPath(name))' '\(data)'")
    try #require(result.status == 0, "\(result.errors)")
    return (meta, data)
  }

  @Test("with -m the tools read an active pool's metadata snapshot, with the peer's results")
  func liveSnapshot() throws {
    let folder = try ScratchFolder()
    let said = try ScratchFolder()
    let kernel = "\(Repository.root)/contrib/kernel"
    let made = try shell(
      "\(try environment()) DMTHIN_OUT='\(said.path)' '\(kernel)/make-pools' --out '\(folder.path)' "
        + "held-metadata-snapshot")
    try #require(made.status == 0, "\(made.text)\(made.errors)")
    for tool in ["check", "dump", "ls"] {
      for time in ["before", "after"] {
        let name = said.file("\(tool)-\(time)")
        let (a, b) = (try contents(of: name + ".tools"), try contents(of: name + ".peer"))
        // The peer's dump lacks the number of data blocks, without which no tool can restore it.
        let text = String(decoding: a, as: UTF8.self)
        let count = text.split(separator: "nr_data_blocks=\"").last?.prefix { $0 != "\"" } ?? ""
        let complete = String(decoding: b, as: UTF8.self).replacing(
          "nr_data_blocks=\"0\"", with: "nr_data_blocks=\"\(count)\"")
        #expect(!a.isEmpty && text == complete, "\(tool), \(time) later changes")
        #expect(try contents(of: name + ".tools.err").isEmpty)
      }
    }
    // The snapshot does not change with the pool; only the check's figures do.
    for tool in ["dump", "ls"] {
      let before = try contents(of: said.file("\(tool)-before.tools"))
      #expect(try contents(of: said.file("\(tool)-after.tools")) == before)
    }
  }

  @Test("without -m the tools refuse the metadata of an active pool")
  func busy() throws {
    let folder = try ScratchFolder()
    try play(
      "busy-device", folder.zeros("meta", size: 8 << 20), folder.zeros("data", size: 64 << 20))
  }

  @Test("a pool that needs a check is writable once thin_check has cleared its flag")
  func needsCheck() throws {
    let folder = try ScratchFolder()
    let pool = try copy("needs-check", to: folder)
    try play("clear-needs-check", pool.meta, pool.data)
  }

  @Test(
    "a pool on restored metadata has its former content",
    arguments: ["snapshots-of-snapshots", "deleted-devices", "discard-holes"])
  func restoredPool(_ name: String) throws {
    let folder = try ScratchFolder()
    let pool = try copy(name, to: folder)
    let size = UInt64(try contents(of: pool.meta).count)
    let said = try play(
      "restore-activates", pool.meta, pool.data, folder.zeros("restored", size: size))
    #expect(said.contains("equal"))
  }
}
