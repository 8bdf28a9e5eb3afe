import Glibc
import TestSupport
import Testing

/// What lvm2 relies on.
@Suite struct LvmTests {
  @Test("the version is one word on one line", arguments: Tools.names)
  func version(_ tool: String) throws {
    for option in ["-V", "--version"] {
      let result = try ours(tool, option)
      #expect(result.status == 0 && result.errors.isEmpty)
      let line = try #require(result.text.hasSuffix("\n") ? result.text.dropLast() : nil)
      #expect(line.split(separator: ".").count == 3 && line.allSatisfy { $0.isNumber || $0 == "." })
    }
  }

  @Test("the first line of a dump has the transaction id, without a prologue, within 4 KiB")
  func firstLine() throws {
    for name in Pools.names {
      let text = try ours("thin_dump", Pools.path(name)).text
      let line = text.prefix { $0 != "\n" }
      #expect(line.hasPrefix("<superblock ") && line.utf8.count < 4096)
      #expect(line.split(separator: " ").contains { $0.hasPrefix("transaction=\"") })
    }
  }

  @Test("a reader may close the pipe after the first line without a message")
  func closedPipe() throws {
    let pool = try Pools.path("multi-level")
    let tool = try Tools.path("thin_dump")
    for signals in ["", "trap '' PIPE; "] {
      let result = try shell("\(signals)'\(tool)' '\(pool)' | head -n 1; echo ${PIPESTATUS[0]} >&2")
      #expect(
        result.text.hasPrefix("<superblock ") && result.text.split(separator: "\n").count == 1)
      #expect(result.errors == "64\n")
    }
  }

  @Test("an activation's check is silent and clears the flag; the pool is sound after it")
  func activation() throws {
    let folder = try ScratchFolder()
    for name in ["needs-check", "fresh"] {
      let image = try folder.copy(of: Pools.path(name), as: name)
      let result = try ours("thin_check", "-q", "--clear-needs-check-flag", image)
      #expect(result.status == 0 && result.output.isEmpty && result.errors.isEmpty)
      #expect(try contents(of: image)[4] == 0)
      #expect(try peers("thin_check", image).status == 0)
    }
    // lvm2 once allowed these two options together.
    // checked.
    let image = try folder.copy(of: Pools.path("needs-check"), as: "skipping")
    let result = try ours("thin_check", "--clear-needs-check-flag", "--skip-mappings", image)
    #expect(result.status == 0)
  }

  @Test("an empty argument, which lvm2 passes for no options, is ignored")
  func emptyArgument() throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path("fresh")
    for tool in ["thin_check", "thin_dump", "thin_ls"] {
      #expect(try ours(tool, "", pool).status == 0)
      #expect(try ours(tool, pool, "").status == 0)
    }
    let xml = try folder.file("a.xml", text: poolXML(mapped: 1, single(0, 0)))
    let image = try folder.zeros("image", size: 1 << 20)
    #expect(try ours("thin_restore", "", "-i", xml, "-o", image).status == 0)
  }

  @Test("a dump is restored from a descriptor under /proc, without a newline at its end")
  func descriptor() throws {
    let folder = try ScratchFolder()
    let text = poolXML(
      mapped: 10,
      """
          <range_mapping origin_begin="0" data_begin="0" length="10" time="0"/>
      """)
    #expect(!text.hasSuffix("\n"))
    let xml = try folder.file("a.xml", text: text)
    let image = try folder.zeros("image", size: 1 << 20)
    let tool = try Tools.path("thin_restore")
    let result = try shell("'\(tool)' -i /proc/self/fd/4 -o '\(image)' 4<'\(xml)'")
    #expect(result.status == 0 && result.errors.isEmpty)
    #expect(try ours("thin_dump", image).text == text)
  }
}
