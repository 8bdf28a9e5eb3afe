import BlockIO
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// A repair in place: cut off at any write, it is taken back byte for byte, and it is gone on with.
@Suite struct InPlaceRepairTests {
  private let folder: TemporaryFolder
  private var file: String { "\(folder.path)/undo" }

  init() throws { folder = try TemporaryFolder("in-place") }

  private static let options = {
    var options = RepairOptions()
    options.salvage.overrides.dataBlockSectors = RepairTrial.dataBlockSectors
    return options
  }()

  /// Damaged pools of which something can be saved; small ones, since each is repaired very often.
  private func pools(_ count: Int) throws -> [(what: String, device: MemoryDevice)] {
    let first = seed()
    var history = PoolHistory.Kind(
      "small", metadataBlocks: 150...250, commits: 4...8, operations: 1...8, window: 100...100)
    history.snapshots = 100
    var found: [(what: String, device: MemoryDevice)] = []
    for n in 0..<UInt64(16 * count) where found.count < count {
      var random = SplitMix64(seed: first &+ n)
      let device = try PoolHistory(history, seed: first &+ n).device
      let lost = found.count % 2 == 0 ? 0 : UInt64.random(in: 1..<60, using: &random)
      device.edit(lost)[100] ^= 1
      device.keep()
      guard (try? ThinRepair.run(device, to: nil, options: Self.options)) != nil else { continue }
      found.append(("seed \(first &+ n): block \(lost) lost", device))
    }
    return found
  }

  private func copy(_ device: MemoryDevice) -> MemoryDevice {
    let copy = MemoryDevice(byteCount: Int(device.byteCount))
    for block in 0..<(device.byteCount / 4096) {
      copy.edit(block).copyMemory(from: device.peek(block))
    }
    copy.keep()
    return copy
  }

  private func isEqual(_ a: MemoryDevice, _ b: MemoryDevice) -> Bool {
    a.byteCount == b.byteCount
      && (0..<(a.byteCount / 4096)).allSatisfy { a.peek($0).elementsEqual(b.peek($0)) }
  }

  /// Repairs a device where it is, as the command does.
  private func repaired(_ device: any BlockDevice, kept: (any BlockDevice)? = nil) throws {
    _ = try ThinRepair.runInPlace(device, options: Self.options, kept: kept) {
      write throws(ToolError) in
      do {
        let output = try TextOutput(path: file)
        try write(output.sink)
        try output.commit()
      } catch let error as BlockIOError {
        throw ToolError(error)
      } catch {
        throw ToolError(.unexpected, "\(error)")
      }
    }
  }

  @Test("cut off at every write, it is taken back byte for byte and gone on with")
  func everyCut() throws {
    var random = SplitMix64(seed: seed())
    for (what, device) in try pools(4) {
      let before = copy(device)
      let recording = RecordingDevice(device)
      try repaired(recording)
      let after = copy(device)
      #expect(try checked(after).isClean, "\(what)")
      let kept = try MemoryDevice(contentsOf: file)
      for cut in 0...recording.steps.count {
        for survivors in RecordingDevice.Survivors.allCases {
          let image = copy(before)
          try recording.replay(cut, survivors, on: image, &random)
          let other = copy(image)
          _ = try ThinRepair.undo(of: image, from: kept)
          #expect(isEqual(image, before), "\(what): cut \(cut), \(survivors)")
          try repaired(other, kept: kept)
          #expect(isEqual(other, after), "\(what): cut \(cut), \(survivors)")
        }
      }
    }
  }

  @Test("taking back may be cut off at every write, and done again")
  func everyCutOfUndo() throws {
    var random = SplitMix64(seed: seed())
    for (what, device) in try pools(4) {
      let before = copy(device)
      try repaired(device)
      let after = copy(device)
      let kept = try MemoryDevice(contentsOf: file)
      let recording = RecordingDevice(device)
      #expect(try ThinRepair.undo(of: recording, from: kept) != .nothingToDo)
      #expect(isEqual(device, before))
      #expect(try ThinRepair.undo(of: device, from: kept) == .nothingToDo)
      for cut in 0...recording.steps.count {
        for survivors in RecordingDevice.Survivors.allCases {
          let image = copy(after)
          try recording.replay(cut, survivors, on: image, &random)
          _ = try ThinRepair.undo(of: image, from: kept)
          #expect(isEqual(image, before), "\(what): cut \(cut), \(survivors)")
        }
      }
    }
  }

  @Test("every read, write and flush that fails leaves what can be taken back")
  func everyFault() throws {
    let (what, device) = try #require(try pools(1).first)
    let before = copy(device)
    try repaired(device)
    let kept = try MemoryDevice(contentsOf: file)
    for operation in [BlockIOError.Operation.write, .flush] {
      for after in 0..<1000 {
        let image = copy(before)
        let faulty = FaultyDevice(image)
        faulty.fault = (operation, after)
        faulty.isLasting = true
        let result = Result { try repaired(faulty) }
        guard faulty.wasMet else { break }
        #expect(throws: ToolError.self, "\(what): \(operation) \(after)") { try result.get() }
        _ = try ThinRepair.undo(of: image, from: kept)
        #expect(isEqual(image, before), "\(what): \(operation) \(after)")
      }
    }
  }

  @Test("nothing is written before the old blocks are durable, nor where they cannot be kept")
  func keptFirst() throws {
    let (_, device) = try #require(try pools(1).first)
    device.keep()
    let recording = RecordingDevice(device)
    var stepsBefore: Int?
    #expect(throws: ToolError.self) {
      _ = try ThinRepair.runInPlace(recording, options: Self.options) { _ throws(ToolError) in
        stepsBefore = recording.steps.count
        throw ToolError(.outOfSpace, "no room")
      }
    }
    #expect(stepsBefore == 0 && recording.steps.isEmpty && device.changedBlocks.isEmpty)
  }

  @Test("another device, or one that was written to since, is refused and stays as it is")
  func otherDevices() throws {
    let (_, device) = try #require(try pools(1).first)
    let before = copy(device)
    try repaired(device)
    let after = copy(device)
    let kept = try MemoryDevice(contentsOf: file)
    func expectRefused(_ device: MemoryDevice) {
      device.keep()
      let error = #expect(throws: ToolError.self) {
        _ = try ThinRepair.undo(of: device, from: kept)
      }
      #expect(error?.cause == .refused)
      #expect(device.changedBlocks.isEmpty)
    }
    for base in [before, after] {
      for block in [0, 1, base.byteCount / 4096 - 1] {
        let other = copy(base)
        // Neither what it was nor what the repair wrote.
        other.edit(block)[1000] ^= 0x55
        expectRefused(other)
      }
      let larger = copy(base)
      larger.grow(byteCount: Int(base.byteCount) + 4096)
      expectRefused(larger)
    }
    expectRefused(MemoryDevice(byteCount: Int(before.byteCount)))
  }

  @Test("a file that is cut short or changed is refused before anything is written")
  func otherFiles() throws {
    let (_, device) = try #require(try pools(1).first)
    try repaired(device)
    device.keep()
    let kept = try MemoryDevice(contentsOf: file)
    let blocks = kept.byteCount / 4096
    func expectRefused(_ what: String) {
      let error = #expect(throws: ToolError.self, "\(what)") {
        _ = try ThinRepair.undo(of: device, from: kept)
      }
      #expect(error?.cause == .refused || error?.cause == .damaged, "\(what)")
      #expect(device.changedBlocks.isEmpty, "\(what)")
      kept.revert()
    }
    for block in 0..<blocks {
      kept.edit(block)[Int(block * 37 % 4096)] ^= 1
      expectRefused("block \(block) of \(blocks)")
    }
    for count in [0, 1, 2, blocks / 2, blocks - 1] {
      kept.truncate(blocks: Int(count))
      expectRefused("cut to \(count) blocks")
    }
    _ = try ThinRepair.undo(of: device, from: kept)
  }
}
