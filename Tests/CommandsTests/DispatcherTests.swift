import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import Commands

@Suite struct DispatcherTests {
  @Test("a command runs by the name of its link, in any folder", arguments: NamedSpec.all)
  func byLink(_ command: NamedSpec) {
    let spec = command.spec
    for program in [spec.fieldName, "/usr/sbin/\(spec.fieldName)", "./\(spec.fieldName)"] {
      #expect(runCommand(program, "-V").output == "\(Version.text)\n")
      #expect(runCommand(program, "--help").output.hasPrefix("\(spec.fieldName): \(spec.summary)"))
    }
  }

  @Test("a command runs as a verb, by its short and its long name", arguments: NamedSpec.all)
  func byVerb(_ command: NamedSpec) {
    let spec = command.spec
    for program in ["dmthin", "/bin/thin-tools"] {
      for verb in [spec.name, spec.fieldName] {
        let usage = "\nUsage: \(program.split(separator: "/").last ?? "") \(verb) [OPTIONS]"
        #expect(runCommand(program, verb, "--help").output.contains(usage))
        #expect(runCommand(program, "help", verb).output.contains(usage))
        #expect(runCommand(program, verb, "--foo").errors.contains(usage))
      }
    }
  }

  @Test("the version is one word on one line, and compares as at least 0.9.0")
  func version() {
    let words = runCommand("thin-tools", "--version").output.split(separator: "\n")
    #expect(words.count == 1 && words[0].split(separator: " ").count == 1)
    #expect(
      words[0].split(separator: ".").compactMap { Int($0) }.lexicographicallyPrecedes([0, 9])
        == false)
  }

  @Test("help lists every command")
  func overview() {
    for arguments in [["dmthin", "help"], ["dmthin", "--help"], ["dmthin", "-h"]] {
      let result = runCommand(arguments)
      #expect(result.status == 0)
      for spec in allSpecs { #expect(result.output.contains("(\(spec.fieldName))")) }
    }
  }

  @Test("a missing or unknown command is a usage error")
  func unknown() {
    for arguments in [
      ["dmthin"], [], ["dmthin", "foo"], ["dmthin", "help", "foo"], ["dmthin", ""],
    ] {
      let result = runCommand(arguments)
      #expect(result.status == 2 && result.output.isEmpty && result.errors.contains("error: "))
    }
  }

  @Test("manual pages and completions are written for packaging")
  func generated() throws {
    let scratch = try ScratchFolder()
    let folder = scratch.path
    #expect(runCommand("thin-tools", "generate-man", folder).status == 0)
    for shell in ["bash", "zsh", "fish"] {
      #expect(runCommand("thin-tools", "generate-completions", shell, folder).status == 0)
    }
    for name in allSpecs.map(\.fieldName) + ["thin-tools"] {
      #expect(unlink("\(folder)/\(name).8") == 0)
      for file in [name, "_\(name)", "\(name).fish"] {
        // A command without a program of its own is completed with the others.
        #expect((unlink("\(folder)/\(file)") == 0) != name.hasPrefix("dmthin-"), "\(file)")
      }
    }
    #expect(Folder.names(in: folder).isEmpty)
    #expect(runCommand("thin-tools", "generate-man", "/no/such/folder").status == 73)
    let other = runCommand("thin-tools", "generate-completions", "csh", folder)
    #expect(other.status == 2 && other.errors.contains("shells are bash, zsh, fish"))
  }
}

@Suite struct InputCheckTests {
  private let binaryReaders = ["thin_check", "thin_dump", "thin_ls"]

  @Test("unsuitable inputs get an error for their kind")
  func inputs() throws {
    let tiny = try ScratchFile(size: 1024)
    let xml = try ScratchFile(text: "<superblock uuid=\"\"", size: 65536)
    for program in binaryReaders {
      #expect(
        runCommand(program, "no-such-file").errors
          == "error: Couldn't find input file 'no-such-file'\n")
      #expect(
        runCommand(program, "/tmp").errors == "error: Not a block device or regular file '/tmp'.\n")
      #expect(
        runCommand(program, tiny.path).errors.contains(
          "Metadata device/file too small.  Is this binary metadata?"))
      #expect(
        runCommand(program, xml.path).errors.contains(
          "This looks like XML.  This tool only supports the binary metadata format."))
      for path in ["", "/tmp", tiny.path, xml.path] {
        #expect(runCommand(program, path).status == 66)
      }
    }
  }

  @Test("outputs that cannot hold metadata are refused")
  func outputs() throws {
    let input = try ScratchFile(text: "<superblock/>")
    let small = try ScratchFile(size: 40959)
    let cases = [
      ("no-such-file", "Couldn't find output file 'no-such-file'"),
      ("/tmp", "Not a block device or regular file '/tmp'."),
      (small.path, "Output file too small."),
    ]
    for (path, message) in cases {
      let result = runCommand("thin_restore", "-i", input.path, "-o", path)
      #expect(result.status == 73 && result.errors.contains(message))
    }
    let large = try ScratchFile(size: 40960)
    #expect(throws: Never.self) { try InputChecks.requireOutput(large.path) }
    #expect(runCommand("thin_restore", "-i", "no-such-file", "-o", large.path).status == 66)
  }

  @Test("an error about damage says what the input may be instead; other errors do not")
  func explanations() throws {
    let zeroes = try ScratchFile(size: 65536)
    func message(_ cause: ToolError.Cause) -> String? {
      let error = #expect(throws: ToolError.self) {
        try InputChecks.explaining(zeroes.path) { throw ToolError(cause, "bad") }
      }
      return error?.message
    }
    #expect(message(.damaged)?.hasPrefix("bad\nThe first block is all zeroes") == true)
    #expect(message(.unexpected) == "bad")
  }
}

@Suite struct WrongInputTests {
  /// Inputs that are not metadata, with words that every tool must print about each.
  private static func inputs() throws -> [(bytes: [UInt8], words: [String])] {
    func block(_ bytes: [UInt8], at offset: Int) -> [UInt8] {
      var block = [UInt8](repeating: 0, count: 1 << 20)
      block.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      return block
    }
    let shifted = MemoryDevice(byteCount: 1 << 20)
    _ = try PoolMetadata.format(shifted, dataBlockSectors: 128)
    let metadata = (0..<256).flatMap { Array(shifted.peek($0)) }
    var wiped = metadata
    wiped.replaceSubrange(0..<4096, with: [UInt8](repeating: 0, count: 4096))
    var overwritten = metadata
    overwritten.replaceSubrange(0..<4096, with: [UInt8](repeating: 0x5a, count: 4096))
    return [
      ([UInt8](repeating: 0x41, count: 1 << 20), ["data device", "_tmeta", "pool doctor"]),
      (block([0x53, 0xef], at: 1080), ["ext4", "data device", "_tmeta"]),
      (block([0x55, 0xaa], at: 510), ["partition table", "data device"]),
      (block(Array("LABELONE".utf8), at: 512), ["physical volume of LVM", "lvs -a"]),
      (block([0x1f, 0x8b], at: 0), ["gzip", "gzip -dc "]),
      (block([0x28, 0xb5, 0x2f, 0xfd], at: 0), ["zstd", "zstd -dc "]),
      ([UInt8](repeating: 0, count: 65536) + metadata, ["byte 65536", "losetup", "skip=65536"]),
      (wiped, ["all zeroes", "sound metadata", "thin_dump --repair"]),
      (overwritten, ["overwritten", "sound metadata", "thin_dump --repair"]),
    ]
  }

  @Test("every tool names the kind of a wrong input, and what to do next")
  func metadata() throws {
    for (bytes, words) in try Self.inputs() {
      let file = try ScratchFile(bytes)
      let verbs = ["create-thin", "delete"].map {
        ["dmthin", "pool", $0, "--backend", "offline", file.path, "1"]
      }
      let tools = [["thin_check"], ["thin_dump"], ["thin_ls"], ["dmthin", "pool", "doctor"]]
      for line in tools.map({ $0 + [file.path] }) + verbs {
        let captured = CapturedConsole()
        let status = runMain(
          arguments: line,
          commands: Dispatcher.metadataCommands + Dispatcher.poolCommands, console: captured.console
        )
        #expect(status == 64, "\(line)")
        let said = captured.errors + captured.output
        for word in words { #expect(said.contains(word), "\(line), \(word): \(said)") }
      }
    }
  }

  @Test("a restore names the kind of a wrong input, and writes nothing")
  func dumps() throws {
    let output = try ScratchFile(size: 1 << 20)
    let device = MemoryDevice(byteCount: 1 << 20)
    _ = try PoolMetadata.format(device, dataBlockSectors: 128)
    let metadata = (0..<256).flatMap { Array(device.peek($0)) }
    for (bytes, words) in [
      ([0x1f, 0x8b, 8, 0, 0], ["gzip", "gzip -dc "]), (metadata, ["thin_dump", "swapped"]),
      (Array("begin superblock: \"\", 0".utf8), ["human_readable", "thin_dump"]),
    ] {
      let file = try ScratchFile(bytes)
      let result = runCommand("thin_restore", "-i", file.path, "-o", output.path)
      #expect(result.status == 66, "\(words)")
      for word in words { #expect(result.errors.contains(word), "\(word): \(result.errors)") }
      #expect(!result.errors.contains("UTF-8"))
    }
    #expect(try contents(of: output.path).allSatisfy { $0 == 0 })
    let small = try ScratchFile([0x1f, 0x8b, 8, 0])
    #expect(runCommand("thin_check", small.path).errors.contains("gzip"))
  }
}

@Suite struct WellKnownNamesTests {
  @Test("every command is found by its names without specifications, and nothing else is")
  func names() {
    let commands =
      Dispatcher.metadataCommands + Dispatcher.deviceMapperCommands + Dispatcher.poolCommands
    for command in commands {
      let spec = command.spec
      #expect(Dispatcher.wellKnown(spec.name) == command, "\(spec.name)")
      if spec.group == nil {
        for name in [spec.fieldName] + (command.raw?.names ?? []) {
          #expect(Dispatcher.wellKnown(name) == command, "\(name)")
        }
      }
      #expect(!Dispatcher.isOwnName(spec.fieldName) && !Dispatcher.isOwnName(spec.name))
    }
    for name in ["", "pool", "dmthin", "pool nothing", "check "] {
      #expect(Dispatcher.wellKnown(name) == nil)
    }
  }
}
