import BlockServer
import Commands
import DeviceMapper
import PoolManager
import PoolServer
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import ServeCommands

@Suite("The command line of dmthin serve")
struct ServeCommandTests {
  private func options(_ line: String) throws -> ServeOptions {
    guard
      case .run(let arguments) = try ServeCommand.spec.parse(
        line.split(separator: " ").map { String($0) })
    else { throw UsageError("no run") }
    return try ServeCommand.options(arguments)
  }

  @Test("Options are parsed")
  func understood() throws {
    let options = try options(
      """
      --metadata m --data d --name p --volume a=1:1g --volume b=2 --socket s --socket t \
      --listen 127.0.0.1:0 --read-only --features skip_block_zeroing,error_if_no_space \
      --low-water 9 --no-space-timeout 0 --metadata-cache 2 --spin 50 --connections 3 --metrics m
      """)
    #expect(options.source == .devices(metadata: "m", data: "d"))
    #expect(options.name == "p")
    #expect(options.volumes.map(\.name) == ["a", "b"])
    #expect(options.sockets == ["s", "t"])
    #expect(options.addresses == ["127.0.0.1:0"])
    #expect(options.isReadOnly)
    #expect(options.features == [.skipBlockZeroing, .errorIfNoSpace])
    #expect(options.lowWaterBlocks == 9)
    #expect(options.noSpaceTimeoutSeconds == 0)
    #expect(options.metadataCacheBlocks == 512)
    #expect(options.spinMicroseconds == 50)
    #expect(options.limits.connections == 3)
    #expect(options.metrics == "m")
    #expect(try self.options("--control c").source == .none)
    #expect(try self.options("--tables t --socket s").source == .tables("t"))
  }

  @Test("A rescue is only read, and has its options")
  func rescue() throws {
    let folder = try ScratchFolder()
    let (meta, data) = (try folder.zeros("m", size: 1), try folder.zeros("d", size: 1))
    var serving = RescueServing(metadata: meta, data: data)
    let least = try options("--rescue --metadata \(meta) --data \(data) --socket s")
    #expect(least.source == .rescue(serving) && least.isReadOnly)
    serving.metadataOffset = 1 << 20
    serving.dataOffset = 1024
    serving.lostAsZeroes = true
    serving.options.source = .metadataSnapshotAt(7)
    serving.options.salvage.overrides.dataBlockSectors = 128
    serving.options.salvage.includesDeleted = true
    let all = try options(
      """
      --rescue --metadata \(meta) --data \(data) --socket s --metadata-offset 1m --data-offset 2s \
      --lost-as-zeroes -m=7 --data-block-size 128 --include-deleted --volume a=1:1g
      """)
    #expect(all.source == .rescue(serving) && all.volumes.map(\.name) == ["a"])
  }

  @Test(
    "An invalid command line is a usage error",
    arguments: [
      "--socket s", "--metadata m --socket s", "--data d --socket s",
      "--metadata m --data d --tables t", "--tables t --volume a=1:1m",
      "--metadata m --data d --volume a=1:1", "--metadata m --data d --features fast",
      "--metadata m --data d --tls-certificate c", "--metadata m --data d --tls-required",
      "--rescue --metadata m --socket s", "--rescue --control c", "--rescue --tables t --socket s",
      "--metadata m --data d --socket s --lost-as-zeroes", "--metadata m --data d --socket s -m",
      "--rescue --metadata m --data d --socket s --features error_if_no_space",
      "--metadata m --data d --tls-psk k --tls-key k", "extra --metadata m --data d",
    ])
  func refused(_ line: String) {
    #expect(throws: UsageError.self) { try options(line) }
  }

  @Test("Help fits into 80 columns, and every option is in manual page and completion")
  func help() {
    let spec = ServeCommand.spec
    let help = spec.helpText(program: "dmthin serve")
    for option in spec.options {
      #expect(help.contains("\(option.label)\n"))
      #expect(spec.completion(for: .bash).contains("--\(option.name)"))
      #expect(option.help.hasSuffix("."), "\(option.label)")
    }
    #expect(help.contains("\nExamples:\n") && help.contains("\nSee also: "))
    for line in help.split(separator: "\n") where !line.hasPrefix("Usage:") {
      #expect(line.count <= 80, "\(line)")
    }
  }
}
