import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import Commands

@Suite struct SizeTests {
  @Test("estimates equal those of the original tool, except for pools that need more")
  func figures() throws {
    for row in SizeFigures.rows {
      for (poolSize, sectors) in zip(SizeFigures.poolSizes, row.sectors) {
        let estimate = try MetadataSizeEstimate(
          poolBytes: parseStorageSize(poolSize), blockBytes: parseStorageSize(row.blockSize),
          devicesMax: row.devices)
        let blocks = try parseStorageSize(poolSize) / parseStorageSize(row.blockSize)
        let least = 20 + row.devices + row.devices / 42 + blocks / 250 + blocks / 16320
        let isEnough = sectors / 8 >= least || sectors / 8 == Limits.metadataBlocksMax
        let what = "\(row.blockSize) \(poolSize) \(row.devices)"
        #expect(isEnough ? estimate.bytes / 512 == sectors : estimate.blocks < least + 8, "\(what)")
        #expect(estimate.bytes / 512 >= sectors, "\(what)")
      }
    }
  }

  @Test(
    "a pool with all its devices, fully mapped, fits into the printed size",
    arguments: [(1, 1), (16, 1), (16, 10), (16, 100), (1024, 1), (1024, 40), (500, 500), (9000, 3)])
  func enough(_ dataBlocks: Int, _ devices: Int) throws {
    let folder = try ScratchFolder()
    let size = runCommand(
      "thin_metadata_size", "-nub", "-b64k", "-s", "\(dataBlocks * 64)k", "-m\(devices)")
    let bytes = try #require(UInt64(size.output.dropLast()))
    #expect(size.status == 0 && size.errors.isEmpty)
    let made = try folder.zeros("made", size: bytes)
    func pool(_ arguments: String...) -> Int32 {
      let console = CapturedConsole()
      return Dispatcher(Dispatcher.poolCommands).run(
        ["dmthin", "pool"] + arguments, console: console.console)
    }
    #expect(pool("format", "--data-block-size=128", "--nr-data-blocks=\(dataBlocks)", made) == 0)
    for id in 0..<min(devices, 40) { #expect(pool("create-thin", made, "\(id)") == 0) }
    let each = dataBlocks / devices
    var xml =
      "<superblock uuid='' time='0' transaction='0' version='2' data_block_size='128' "
      + "nr_data_blocks='\(dataBlocks)'>"
    for id in 0..<devices {
      xml +=
        "<device dev_id='\(id)' mapped_blocks='\(each)' transaction='0' creation_time='0' "
        + "snap_time='0'>"
      if each > 0 {
        xml +=
          "<range_mapping origin_begin='0' data_begin='\(id * each)' length='\(each)' time='0'/>"
      }
      xml += "</device>"
    }
    let dump = try folder.file("xml", text: xml + "</superblock>")
    let restored = try folder.zeros("restored", size: bytes)
    let result = runCommand("thin_restore", "-i", dump, "-o", restored)
    #expect(result.status == 0, "\(result.errors)")
    #expect(runCommand("thin_check", "-q", "--strict", restored).status == 0)
  }

  @Test("the value of --numeric-only is joined to the letter, with = or without, or follows it")
  func numericOnly() {
    let line = ["thin_metadata_size", "-b64k", "-s1t", "-m1000", "-uM"]
    for (form, text) in [
      (["-nshort"], "549.49M"), (["-n=short"], "549.49M"), (["-n", "short"], "549.49M"),
      (["--numeric-only", "short"], "549.49M"), (["-nlong"], "549.49megabytes"), (["-n"], "549.49"),
    ] {
      #expect(runCommand(line + form).output == text + "\n", "\(form)")
      #expect(runCommand([line[0]] + form + line.dropFirst()).output == text + "\n", "\(form)")
    }
    #expect(runCommand(line + ["-nmedium"]).status == 2)
  }

  @Test("results are printed as by the original tool, in each unit by each of its names")
  func units() {
    for row in SizeFigures.units {
      let line = ["thin_metadata_size", "-b", "64k", "-s", "1t", "-m", "1000", "-u", row.unit]
      #expect(runCommand(line).output == row.full + "\n")
      #expect(runCommand(line + ["-n=short"]).output == row.short + "\n")
      let long = row.full.split(separator: " ").joined()
      #expect(runCommand(line + ["--numeric-only=long"]).output == long + "\n")
      #expect(runCommand(line + ["-n"]).output == row.full.split(separator: " ")[0] + "\n")
    }
  }

  @Test("a whole size has no decimals, one below 1 has all, and others have two")
  func decimals() throws {
    for (devices, text) in SizeFigures.mebibytes {
      #expect(formatSize(bytes: (2 + devices) * 4096, in: .mebibyte) == text)
    }
    #expect(formatSize(bytes: 8192, in: .exbibyte) == "0.000000000000007105427357601002")
    #expect(formatSize(bytes: 0, in: .mebibyte) == "0")
    #expect(formatSize(bytes: 1, in: .kilobyte) == "0.001")
    #expect(formatSize(bytes: 1, in: .exabyte) == "0.000000000000000001")
  }

  @Test("numbers at the ends of their range do not trap")
  func extremes() throws {
    let most = try MetadataSizeEstimate(
      poolBytes: .max, blockBytes: 65536, devicesMax: .max)
    #expect(most.isLimited && most.blocks == 4_161_600)
    #expect(
      runCommand("thin_metadata_size", "-b64k", "-s15e", "-m18446744073709551615", "--json").output
        == #"{"metadata_blocks":4161600,"metadata_sectors":33292800,"#
        + #""metadata_bytes":17045913600,"limited":true}"# + "\n")
  }

  @Test("blocks that the kernel refuses, and pools smaller than a block, are refused")
  func refusals() {
    for size in ["0", "64", "127", "2097153", "2097280", "4194304", "63k"] {
      let result = runCommand("thin_metadata_size", "-b", size, "-s", "16777216", "-m", "1")
      #expect(result.status == 64 && result.errors.contains("block size must be"))
    }
    for size in ["128", "256", "384", "2097152"] {
      #expect(runCommand("thin_metadata_size", "-b", size, "-s", "16777216", "-m1").status == 0)
    }
    #expect(runCommand("thin_metadata_size", "-b64k", "-s1", "-m1").status == 64)
    #expect(runCommand("thin_metadata_size", "-b64k", "-s64k", "-m1").output == "168 sectors\n")
    for size in ["", "k", "1x", "-1", "1 k", "16e", "99999999999999999999", "1.5g", "1kk"] {
      #expect(runCommand("thin_metadata_size", "-b64k", "--pool-size=\(size)", "-m1").status == 2)
    }
  }

  @Test("sizes are read with every unit, in sectors without one")
  func parsing() throws {
    #expect(try parseStorageSize("3") == 1536)
    for unit in StorageUnit.allCases {
      for name in [unit.rawValue, unit.symbol, unit.letter] {
        #expect(try parseStorageSize("3\(name)") == 3 * unit.bytes)
      }
    }
    #expect(StorageUnit.tebibyte.symbol == "TiB")
  }

  @Test("pretty sizes are whole numbers of at most 8192")
  func pretty() {
    let sizes: [(UInt64, String)] = [
      (0, "0b"), (1, "1b"), (8192, "8192b"), (8193, "8KiB"), (65535, "64KiB"), (65536, "64KiB"),
      (19 << 20, "19MiB"), (8192 << 10, "8192KiB"), (8192 << 10 + 512, "8192KiB"),
      (8193 << 10, "8MiB"), (8704 << 10, "9MiB"), (1 << 40, "1024GiB"), (16 << 40, "16TiB"),
      (1 << 63, "8192PiB"), (.max, "16EiB"),
    ]
    for (bytes, text) in sizes { #expect(prettySize(bytes: bytes) == text) }
  }
}
