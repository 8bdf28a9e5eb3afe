import Simulation
import TestSupport
import Testing

/// `thin_repair --in-place` and `--apply-undo` as commands: which files they take, and that they do it.
@Suite struct InPlaceRepairCommandTests {
  private let folder: ScratchFolder
  private let device: String
  private let before: [UInt8]
  private var undo: String { folder.file("undo") }

  init() throws {
    folder = try ScratchFolder()
    // A pool whose superblock is lost.
    var history = PoolHistory.Kind(
      "small", metadataBlocks: 300...300, commits: 8...8, operations: 1...8, window: 100...100)
    history.snapshots = 100
    let pool = try PoolHistory(history, seed: 5)
    pool.device.wipeBlocks([0])
    before = (0..<300).flatMap { Array(pool.device.peek($0)) }
    device = try folder.file("device", bytes: before)
  }

  private func repair(_ arguments: String...) -> (status: Int32, output: String, errors: String) {
    runCommand(["thin_repair", "--data-block-size", "128"] + arguments)
  }

  @Test("a repair in place makes the device sound, and taking it back gives the old one")
  func repairsAndTakesBack() throws {
    let repaired = repair("--in-place", "--save-undo", undo, device)
    #expect(repaired.status == 0, "\(repaired.errors)")
    #expect(runCommand("thin_check", device).status == 0)
    let after = try contents(of: device)
    let takenBack = runCommand("thin_repair", "--apply-undo", undo, device)
    #expect(takenBack.status == 0, "\(takenBack.errors)")
    #expect(try contents(of: device) == before)
    // With what is kept it is done again, from whatever state.
    for image in [before, after, Array(after[..<40960] + before[40960...])] {
      _ = try folder.file("device", bytes: image)
      #expect(repair("--in-place", "--save-undo", undo, device).status == 0)
      #expect(try contents(of: device) == after)
    }
  }

  @Test("what must not be taken for the file, or the device, is refused, and nothing is written")
  func refusals() throws {
    let text = try folder.file("text", text: "precious\n")
    let cases: [([String], Int32)] = [
      (["--in-place", device], 2),
      (["--save-undo", undo, device], 2),
      (["--in-place", "--save-undo", undo], 2),
      (["--in-place", "--save-undo", undo, "-o", text, device], 2),
      (["--in-place", "--save-undo", device, device], 73),
      (["--in-place", "--save-undo", text, device], 64),
      (["--in-place", "--save-undo", "/dev/null", device], 73),
      (["--apply-undo", text, device], 64),
      (["--apply-undo", device, device], 73),
      (["--apply-undo", undo, device], 66),
    ]
    for (arguments, status) in cases {
      let result = runCommand(["thin_repair", "--data-block-size", "128"] + arguments)
      #expect(result.status == status, "\(arguments): \(result.errors)")
      #expect(try contents(of: device) == before, "\(arguments)")
      #expect(try contents(of: text) == Array("precious\n".utf8), "\(arguments)")
    }
  }

  @Test("another device is refused and stays as it is")
  func otherDevice() throws {
    #expect(repair("--in-place", "--save-undo", undo, device).status == 0)
    var other = try contents(of: device)
    other[other.count - 1] ^= 1
    let path = try folder.file("other", bytes: other)
    let result = runCommand("thin_repair", "--apply-undo", undo, path)
    #expect(result.status == 64 && result.errors.contains("not the device"), "\(result.errors)")
    #expect(try contents(of: path) == other)
  }
}

extension MemoryDevice {
  fileprivate func wipeBlocks(_ blocks: [UInt64]) {
    for block in blocks { edit(block).initializeMemory(as: UInt8.self, repeating: 0) }
  }
}
