import Simulation
import TestSupport
import Testing

/// Compares the output of the tools with the peer's.
@Suite struct PeerTests {
  private static let fields = [
    "DEV", "MAPPED_BLOCKS", "EXCLUSIVE_BLOCKS", "SHARED_BLOCKS", "HIGHEST_BLOCK", "MAPPED_SECTORS",
    "EXCLUSIVE_SECTORS", "SHARED_SECTORS", "HIGHEST_SECTOR", "MAPPED_BYTES", "EXCLUSIVE_BYTES",
    "SHARED_BYTES", "HIGHEST_BYTE", "MAPPED", "EXCLUSIVE", "SHARED", "HIGHEST_MAPPED",
    "TRANSACTION", "CREATE_TIME", "SNAP_TIME",
  ]

  @Test("dumps equal the peer's, byte for byte", arguments: Pools.names)
  func dumps(_ name: String) throws {
    let pool = try Pools.path(name)
    for format in ["xml", "human_readable"] {
      let result = try ours("thin_dump", "-f", format, pool)
      #expect(result.status == 0 && result.errors.isEmpty)
      let isEqual = try result.output == peers("thin_dump", "-f", format, pool).output
      #expect(isEqual, "\(format)")
    }
    let bare = try ours("thin_dump", "--skip-mappings", pool).text
    #expect(try bare == peers("thin_dump", "--skip-mappings", pool).text)
  }

  @Test("the result of a check equals the peer's", arguments: Pools.names)
  func checks(_ name: String) throws {
    let pool = try Pools.path(name)
    let (a, b) = (try ours("thin_check", pool), try peers("thin_check", pool))
    #expect(a.status == 0 && b.status == 0 && a.errors.isEmpty)
    #expect(a.text == b.text)
  }

  @Test("lists equal the peer's, except for its spelling of TiB", arguments: Pools.names)
  func lists(_ name: String) throws {
    let pool = try Pools.path(name)
    for arguments in [
      [], ["-o", Self.fields.joined(separator: ",")], ["--no-headers", "-o", "SHARED,DEV,SHARED"],
      ["-o", "HIGHEST_MAPPED"],
    ] {
      let a = try run([Tools.path("thin_ls")] + arguments + [pool])
      let b = try run([Peer.path("thin_ls")] + arguments + [pool])
      #expect(a.status == 0 && a.errors.isEmpty)
      #expect(a.text == b.text.replacing("Tib", with: "TiB"), "\(arguments)")
    }
  }

  @Test("for a metadata snapshot the results equal the peer's")
  func snapshots() throws {
    let pool = try Pools.path("held-metadata-snapshot")
    for tool in ["thin_check", "thin_dump", "thin_ls"] {
      let (a, b) = (try ours(tool, "-m", pool), try peers(tool, "-m", pool))
      #expect(a.status == 0 && b.status == 0 && a.errors.isEmpty)
      // The peer's dump of a metadata snapshot says 0 data blocks, and such a dump cannot be
      // restored.
      let count = a.text.split(separator: "nr_data_blocks=\"").last?.prefix { $0 != "\"" } ?? ""
      let complete = b.text.replacing(
        "nr_data_blocks=\"0\"", with: "nr_data_blocks=\"\(count)\"")
      #expect(a.text == complete, "\(tool)")
      #expect(try a.text != ours(tool, pool).text || tool == "thin_check")
    }
    let none = try Pools.path("fresh")
    for tool in ["thin_check", "thin_dump", "thin_ls"] {
      let (a, b) = (try ours(tool, "-m", none), try peers(tool, "-m", none))
      #expect(a.status == 64 && b.status == 64)
      #expect(a.errors.contains("no current metadata snap"))
    }
  }

  @Test("metadata sizes equal the peer's, which calls a tebibyte a terabyte, for any arguments")
  func sizes() throws {
    var random = SplitMix64(seed: seed())
    let units = [
      "b", "s", "k", "m", "g", "t", "p", "e", "K", "M", "G", "P", "E", "bytes", "sector",
      "kibibyte", "mebibyte", "KiB", "MiB", "GB",
    ]
    for _ in 0..<200 {
      let unit = units.randomElement(using: &random) ?? "s"
      let blockKiB =
        64 * Int.random(in: 1...(1 << Int.random(in: 0...14, using: &random)), using: &random)
      let thins = Int.random(in: 0...(1 << Int.random(in: 0...24, using: &random)), using: &random)
      // With fewer data blocks the peer's size is too small for the pool, and ours is larger.
      let least = 8192 + thins * 7
      let poolKiB =
        blockKiB
        * (least + Int.random(in: 1...(1 << Int.random(in: 0...34, using: &random)), using: &random))
      var arguments = ["-b", "\(blockKiB)k", "-s", "\(poolKiB)k", "-m", "\(thins)"]
      switch Int.random(in: 0..<4, using: &random) {
      case 0: arguments += ["-u", unit]
      case 1: arguments += ["-u", unit, "-n"]
      case 2: arguments += ["--unit=\(unit)", "--numeric-only=short"]
      default: arguments += ["-n=long"]
      }
      let a = try run([Tools.path("thin_metadata_size")] + arguments)
      let b = try run([Peer.path("thin_metadata_size")] + arguments)
      let corrected = unit == "t" ? b.text.replacing("terabyte", with: "tebibyte") : b.text
      #expect(a.text == corrected && a.status == b.status, "\(arguments)")
    }
  }
}
