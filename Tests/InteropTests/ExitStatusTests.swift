import Glibc
import TestSupport
import Testing

/// Scripts tell what happened by the exit status.
@Suite struct ExitStatusTests {
  private let readers = ["thin_check", "thin_dump", "thin_ls"]

  @Test("unsuitable inputs have another status than damaged metadata")
  func inputs() throws {
    let folder = try ScratchFolder()
    let tiny = try folder.zeros("tiny", size: 4095)
    let xml = try folder.file("pool.xml", text: poolXML(mapped: 1, single(0, 0)))
    let zeros = try folder.zeros("zeros", size: 1 << 20)
    for tool in readers {
      for (input, text) in [
        (folder.file("none"), "Couldn't find input file"),
        (folder.path, "Not a block device or regular file"),
        ("/dev/null", "Not a block device or regular file"),
        (tiny, "Metadata device/file too small"), (xml, "This looks like XML"),
      ] {
        let result = try ours(tool, input)
        #expect(result.status == 66, "\(tool) \(input)")
        #expect(result.errors.contains(text) && result.errors.hasPrefix("error: "))
        #expect(result.output.isEmpty)
      }
      let result = try ours(tool, zeros)
      #expect(result.status == 64 && result.errors.contains("bad checksum in superblock"))
    }
    let restored = try ours("thin_restore", "-i", folder.file("none"), "-o", zeros)
    #expect(restored.status == 66)
    #expect(try contents(of: zeros).allSatisfy { $0 == 0 })
  }

  @Test("unsuitable outputs have another status than failed writes")
  func outputs() throws {
    let folder = try ScratchFolder()
    let xml = try folder.file("pool.xml", text: poolXML(mapped: 1, single(0, 0)))
    let small = try folder.zeros("small", size: 40959)
    for (output, text) in [
      (folder.file("none"), "Couldn't find output file"), (small, "Output file too small"),
      (folder.path, "Not a block device or regular file"),
    ] {
      let result = try ours("thin_restore", "-i", xml, "-o", output)
      #expect(result.status == 73 && result.errors.contains(text), "\(result.errors)")
    }
    let pool = try Pools.path("multi-level")
    #expect(try ours("thin_dump", "-o", "\(folder.path)/none/x", pool).status == 73)
    for tool in readers {
      let result = try run([Tools.path(tool), pool], output: "/dev/full")
      #expect(result.status == 74 && result.errors.contains("No space left"), "\(tool)")
    }
    #expect(try ours("thin_dump", "-o", "/dev/full", pool).status == 74)
  }

  @Test("damage is 64, leaks are 65, and neither is ever 2, which lvm2 takes for a missing program")
  func damage() throws {
    let folder = try ScratchFolder()
    var bytes = try contents(of: Pools.path("snapshots-of-snapshots"))
    for block in [0, 1, 5, 9, 12] {
      bytes[block * 4096 + 2000] ^= 1
      let image = try folder.file("damaged", bytes: bytes)
      let status = try ours("thin_check", image).status
      // Blocks that are not in use may hold anything.
      #expect(status == 64 || status == 0)
      #expect(try ours("thin_check", "-q", image).status == status)
      bytes[block * 4096 + 2000] ^= 1
    }
    bytes[20] ^= 0x80
    #expect(try ours("thin_check", folder.file("damaged", bytes: bytes)).status == 64)
    let broken = try folder.file("broken.xml", text: poolXML(mapped: 1, "<single_mapping/>"))
    let output = try folder.zeros("out", size: 1 << 20)
    #expect(try ours("thin_restore", "-i", broken, "-o", output).status == 64)
  }

  @Test("invalid command lines return 2 and change nothing")
  func usage() throws {
    let folder = try ScratchFolder()
    let image = try folder.copy(of: Pools.path("needs-check"), as: "image")
    let before = try contents(of: image)
    for arguments in [
      ["thin_check"], ["thin_check", "--foo", image], ["thin_check", image, image],
      ["thin_check", "--auto-repair", "-m", image], ["thin_restore", "-i", image],
      ["thin_dump", "-f", "json", image], ["thin_ls", "-o", "FOO", image], ["thin_metadata_size"],
    ] {
      let result = try run([Tools.path(arguments[0])] + arguments.dropFirst())
      #expect(result.status == 2 && result.output.isEmpty && result.errors.contains("Usage:"))
    }
    #expect(try contents(of: image) == before)
  }
}
