import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

@testable import Commands

/// Old superblocks that were written back, tested with command lines.
@Suite("Old superblocks and --generation")
struct GenerationTests {
  private let history: PoolHistory
  private let file: ScratchFile

  init() throws {
    var kind = PoolHistory.Kind(
      "written once", metadataBlocks: 1000...1000, commits: 12...12, operations: 3...6,
      window: 400...400)
    kind.creations = 100
    history = try PoolHistory(kind, seed: 7)
    file = try ScratchFile(size: Int(history.device.byteCount))
  }

  /// Writes the device to the file, with the superblock of `back` commits before.
  private func write(back: Int) throws {
    if back > 0 { history.putBack(history.superblocks[history.superblocks.count - 1 - back]) }
    let buffer = AlignedBuffer(count: Int(history.device.byteCount))
    try history.device.read(into: buffer.bytes, at: 0)
    history.device.revert()
    let copy = try FileDevice(path: file.path, access: .readWrite, exclusive: false)
    try copy.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
  }

  /// The part of a dump, or of what --repair saves, from the first device on.
  private func devices(_ options: String...) -> (devices: Substring, errors: String) {
    let (status, output, errors) = runCommand(["thin_dump"] + options + [file.path])
    #expect(status == 0, "\(errors)")
    return (output.drop { $0 != "\n" }, errors)
  }

  private func doctor(_ options: String...) -> (status: Int32, output: String) {
    let captured = CapturedConsole()
    let status = runMain(
      arguments: ["dmthin", "pool", "doctor"] + options + [file.path],
      commands: Dispatcher.poolCommands, console: captured.console)
    return (status, captured.output)
  }

  @Test(
    "the doctor and thin_check report a newer generation, and nothing if the superblock is right"
  )
  func warning() throws {
    try write(back: 0)
    #expect(!doctor("--full").output.contains("newer"))
    #expect(runCommand("thin_check", file.path).errors.isEmpty)

    try write(back: 4)
    let doctor = self.doctor()
    #expect(doctor.status == 65)
    #expect(doctor.output.contains("a newer generation is on the device"), "\(doctor)")
    #expect(doctor.output.contains("thin_dump --repair"))
    let check = runCommand("thin_check", file.path)
    #expect(check.status == 0)
    #expect(check.errors.contains("a newer generation is on the device"))
    let json = runCommand("thin_check", "--json", file.path).output
    #expect(json.contains("\"age\": \"newest\"") || json.contains("\"age\":\"newest\""), "\(json)")

    try write(back: 1)
    #expect(runCommand("thin_check", file.path).errors.isEmpty)
    let crashed = self.doctor()
    #expect(crashed.status == 0)
    #expect(crashed.output.contains("as a crash leaves it"), "\(crashed)")
  }

  @Test(
    "--generation accepts superblock, newest, or a block, and refuses anything else"
  )
  func generations() throws {
    let newest = history.superblocks[history.superblocks.count - 1]
    try write(back: 0)
    let last = devices().devices
    try write(back: 2)
    let between = devices().devices
    try write(back: 5)
    let old = devices().devices
    #expect(old != last && old != between)

    #expect(devices("--repair").devices == last)
    #expect(devices("--repair").errors.contains("--generation superblock"))
    #expect(devices("--repair", "--generation", "superblock").devices == old)
    #expect(devices("--repair", "--generation", "newest").devices == last)
    let block = history.superblocks[history.superblocks.count - 3].metadataSpaceMap.bitmapRoot
    #expect(devices("--repair", "--generation", "\(block)").devices == between)

    let none = runCommand(
      "thin_dump", "--repair", "--generation", "\(newest.mappingRoot)", file.path)
    #expect(none.status != 0 && none.output.isEmpty)
    #expect(none.errors.contains("no generation is named by block \(newest.mappingRoot)"))
    #expect(runCommand("thin_dump", "--repair", "--generation", "oldest", file.path).status == 2)
    #expect(runCommand("thin_dump", "--generation", "newest", file.path).status == 2)
  }
}
