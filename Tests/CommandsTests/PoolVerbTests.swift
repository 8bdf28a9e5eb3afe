import BlockIO
import Glibc
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import Commands

/// Runs `dmthin` in this process.
func dmthin(_ arguments: String...) -> (status: Int32, output: String, errors: String) {
  dmthin(arguments)
}

func dmthin(_ arguments: [String]) -> (status: Int32, output: String, errors: String) {
  let captured = CapturedConsole()
  let status = runMain(
    arguments: ["dmthin"] + arguments,
    commands: Dispatcher.metadataCommands + Dispatcher.poolCommands, console: captured.console)
  return (status, captured.output, captured.errors)
}

@Suite struct PoolVerbTests {
  private let file: ScratchFile
  private var path: String { file.path }

  init() throws {
    file = try ScratchFile(size: 1 << 20)
    let made = dmthin(
      "pool", "format", file.path, "--data-block-size", "128", "--nr-data-blocks", "20000")
    try #require(made.status == 0, "\(made.errors)")
  }

  private func expectClean() throws {
    let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    #expect(report.isClean, "\(report.findings)")
  }

  private var superblock: Superblock {
    get throws {
      let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
      let buffer = AlignedBuffer(count: 4096)
      try device.read(into: buffer.bytes, at: 0)
      return try Superblock(validating: buffer.span, number: 0)
    }
  }

  /// The ids of thin devices in a listing.
  private var devices: [String] {
    dmthin("ls", "--no-headers", "-o", "DEV", path).output.split { " \n".contains($0) }
      .map { String($0) }
  }

  private func change(_ verb: String, _ arguments: String..., status: Int32 = 0, says: String = "")
    throws
  {
    let captured = CapturedConsole()
    let result = runMain(
      arguments: ["dmthin", "pool", verb, path] + arguments, commands: Dispatcher.poolCommands,
      console: captured.console)
    #expect(result == status && captured.errors.contains(says), "\(verb): \(captured.errors)")
    #expect(captured.output.isEmpty && captured.errors.isEmpty == (status == 0))
    try expectClean()
  }

  @Test("format makes an empty pool of the requested size")
  func format() throws {
    try expectClean()
    let made = try superblock
    #expect(made.dataBlockSectors == 128 && made.dataSpaceMap.blockCount == 20000)
    #expect(made.metadataSpaceMap.blockCount == 256 && devices.isEmpty)
  }

  @Test("format refuses a device in use, one that is too small, and an invalid block size")
  func formatRefuses() throws {
    func format(_ path: String, _ sectors: String, _ blocks: String) -> (Int32, String) {
      let result = dmthin(
        "pool", "format", path, "--data-block-size", sectors, "--nr-data-blocks", blocks)
      return (result.status, result.errors)
    }
    let before = try superblock
    let again = format(path, "128", "100")
    #expect(again.0 == 64 && again.1.contains("is not empty"))
    #expect(try superblock == before)
    for sectors in ["0", "64", "129", "2097280"] {
      #expect(format(path, sectors, "100").0 == 2)
    }
    #expect(format(path, "128", "1099511627777").0 == 2)
    #expect(dmthin("pool", "format", path, "--data-block-size", "128").status == 2)
    let small = try ScratchFile(size: 65536)
    let full = format(small.path, "128", "100000000")
    #expect(full.0 == 73 && full.1.contains("too small for 100000000 data blocks"))
    #expect(try contentsAreZero(small.path), "nothing looks like metadata")
    #expect(format(small.path, "128", "1000").0 == 0, "and it can be formatted then")
    #expect(format("no-such-file", "128", "1000").0 == 73)
    #expect(format(try ScratchFile(size: 4096).path, "128", "1000").0 == 73)
  }

  private func contentsAreZero(_ path: String) throws -> Bool {
    let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    let buffer = AlignedBuffer(count: 4096)
    try device.read(into: buffer.bytes, at: 0)
    return buffer.bytes.allSatisfy { $0 == 0 }
  }

  @Test("devices are created, snapshotted and deleted, and impossible requests are refused")
  func createAndDelete() throws {
    try change("create-thin", "1")
    try change("create-thin", "16777215")
    try change("create-snap", "2", "1")
    #expect(devices == ["1", "2", "16777215"])
    #expect(try superblock.time == 1)
    try change("create-thin", "1", status: 64, says: "already exists")
    try change("create-snap", "2", "1", status: 64, says: "already exists")
    try change("create-snap", "3", "7", status: 64, says: "origin 7 does not exist")
    try change("delete", "7", status: 64, says: "device 7 does not exist")
    try change("delete", "1")
    #expect(devices == ["2", "16777215"])
    try change("delete", "2")
    try change("delete", "16777215")
    #expect(devices.isEmpty)
  }

  @Test("numbers are checked for their range")
  func numbers() throws {
    for id in ["16777216", "x", "", "1.5"] {
      try change("create-thin", id, status: 2, says: "invalid value '\(id)' for '<ID>'")
    }
    try change("create-snap", "1", "16777216", status: 2, says: "<ORIGIN>")
    try change("create-thin", status: 2, says: "<ID>")
    try change("create-thin", "1", "2", status: 2, says: "unexpected argument '2'")
    #expect(devices.isEmpty)
  }

  @Test("the transaction id is set if the current one is given")
  func transactionID() throws {
    try change("set-transaction-id", "0", "18446744073709551615")
    #expect(try superblock.transactionID == .max)
    try change("set-transaction-id", "3", "4", status: 64, says: "not 3 as expected")
    #expect(try superblock.transactionID == .max)
  }

  @Test("a metadata snapshot is held until it is released")
  func metadataSnapshot() throws {
    try change("create-thin", "5")
    try change("release-metadata-snap", status: 64, says: "holds no metadata snapshot")
    try change("reserve-metadata-snap")
    try change("reserve-metadata-snap", status: 64, says: "release it first")
    try change("delete", "5")
    let held = dmthin("ls", "-m", "--no-headers", "-o", "DEV", path)
    #expect(held.output.split { " \n".contains($0) } == ["5"], "\(held.errors)")
    try change("release-metadata-snap")
    #expect(try superblock.metadataSnapshot == 0)
  }

  @Test("metadata that is locked, needs a check, is damaged or truncated is left alone")
  func leftAlone() throws {
    let lock = open(path, O_RDWR | O_CLOEXEC)
    #expect(flock(lock, LOCK_SH) == 0)
    try change("create-thin", "1", status: 75, says: "another program has locked it")
    let format = dmthin(
      "pool", "format", path, "--data-block-size", "128", "--nr-data-blocks", "1")
    #expect(format.status == 75)
    // Unlocked explicitly, because children of other tests may have a copy of the descriptor.
    flock(lock, LOCK_UN)
    close(lock)

    var needsCheck = try superblock
    needsCheck.needsCheck = true
    try write(needsCheck)
    try change("create-thin", "1", status: 64, says: "run thin_check --auto-repair")
    #expect(dmthin("check", "--auto-repair", path).status == 0)
    try change("create-thin", "1")

    #expect(truncate(path, 512 << 10) == 0)
    let cut = dmthin("pool", "create-thin", path, "2")
    #expect(cut.status == 64 && cut.errors.contains("the device only 128"))
    #expect(dmthin("pool", "create-thin", "/no/such/file", "2").status == 66)
    let zeros = try ScratchFile(size: 65536)
    let none = dmthin("pool", "create-thin", zeros.path, "2")
    #expect(none.status == 64 && none.errors.contains("all zeroes"))
  }

  private func write(_ superblock: Superblock) throws {
    let device = try FileDevice(path: path, access: .readWrite, exclusive: false)
    let buffer = AlignedBuffer(count: 4096)
    superblock.encode(into: buffer.bytes)
    BlockHeader.seal(buffer.bytes, number: 0, kind: .superblock)
    try device.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
  }

  @Test("the group has an overview, and its commands help")
  func help() {
    for arguments in [["help", "pool"], ["pool", "--help"], ["pool", "help"], ["pool", "-h"]] {
      let captured = CapturedConsole()
      let status = runMain(
        arguments: ["dmthin"] + arguments,
        commands: Dispatcher.metadataCommands + Dispatcher.poolCommands, console: captured.console)
      #expect(status == 0 && captured.output.contains("\n  pool create-thin "))
      #expect(!captured.output.contains("thin_check"))
    }
    #expect(dmthin("help").output.contains("\n  pool set-transaction-id"))
    for arguments in [["help", "pool", "delete"], ["pool", "delete", "--help"]] {
      let captured = CapturedConsole()
      let status = runMain(
        arguments: ["dmthin"] + arguments, commands: Dispatcher.poolCommands,
        console: captured.console)
      #expect(status == 0)
      #expect(captured.output.contains("Usage: dmthin pool delete [OPTIONS] <POOL> <ID>\n"))
    }
    for arguments in [
      ["pool"], ["pool", "foo"], ["help", "pool", "foo"], ["help", "check", "x"],
    ] {
      let captured = CapturedConsole()
      let status = runMain(
        arguments: ["dmthin"] + arguments,
        commands: Dispatcher.metadataCommands + Dispatcher.poolCommands, console: captured.console)
      #expect(status == 2 && captured.errors.contains("commands are "), "\(captured.errors)")
    }
    #expect(runCommand("thin-tools", "pool", "create-thin", "x", "1").status == 2)
  }

  @Test("pages and completions of the group are written")
  func generated() throws {
    let scratch = try ScratchFolder()
    let folder = scratch.path
    #expect(dmthin("generate-man", folder).status == 0)
    for shell in ["bash", "zsh", "fish"] {
      #expect(dmthin("generate-completions", shell, folder).status == 0)
    }
    let names = allSpecs.map(\.fieldName) + Dispatcher.poolCommands.map { $0.spec.fieldName }
    for name in names + ["dmthin"] {
      #expect(unlink("\(folder)/\(name).8") == 0)
      for file in [name, "_\(name)", "\(name).fish"] {
        #expect((unlink("\(folder)/\(file)") == 0) != name.hasPrefix("dmthin-"), "\(file)")
      }
    }
    #expect(Folder.names(in: folder).isEmpty)
  }
}
