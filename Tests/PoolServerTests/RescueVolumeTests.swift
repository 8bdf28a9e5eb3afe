import BlockIO
import DataPath
import EventLoop
import Glibc
import ServerSimulation
import Simulation
import TargetSimulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import PoolServer

/// Reads what a test asks for.
private final class Reader: RequestOwner {
  private let requests = RequestPool()
  private let loop: EventLoop
  private var error: Int32?
  private var random = SplitMix64(seed: 1)

  init(_ loop: EventLoop) { self.loop = loop }

  func perform(
    _ operation: BlockOperation, _ disk: BlockDestination, _ range: Range<Int>,
    _ bytes: [UInt8] = []
  ) -> (error: Int32, bytes: [UInt8]) {
    let buffer = AlignedBuffer(holding: range.count)
    if operation == .write { buffer.bytes.copyBytes(from: bytes) }
    let data = ScatteredData(byteCount: range.count, unit: 512, &random)
    data.take(from: buffer)
    error = nil
    disk.submit(
      requests.take(
        operation, offset: UInt64(range.lowerBound), byteCount: range.count, memory: data.memory,
        owner: self))
    loop.run(within: 60_000_000_000) { error != nil }
    data.put(into: buffer)
    return (error ?? ETIMEDOUT, Array(buffer.bytes[0..<range.count]))
  }

  override func requestDone(_ request: RequestPointer) {
    error = request.pointee.errorNumber
    requests.give(request)
  }
}

@Suite("Volumes of a rescue")
struct RescueVolumeTests {
  private static let dataBytes = 4 << 20
  private static let originBytes = 1 << 20
  private static let volumeBytes = 8 << 20

  /// What a rescue has of the bytes in `range`; nil where reading them fails.
  private func expected(
    _ layout: RescueLayout, _ range: Range<Int>, _ data: [UInt8], _ origin: [UInt8],
    lostAsZeroes: Bool
  ) throws -> [UInt8]? {
    var layout = layout
    var bytes: [UInt8] = []
    while bytes.count < range.count {
      let at = range.lowerBound + bytes.count
      let extent = try layout.extent(at: UInt64(at), limit: UInt64(range.upperBound))
      let end = Int(extent.end)
      switch extent.kind {
      case .data(let byte): bytes += data[Int(byte)..<(Int(byte) + end - at)]
      case .lost, .beyond:
        guard lostAsZeroes else { return nil }
        bytes += [UInt8](repeating: 0, count: end - at)
      case .hole, .origin:
        let there = min(end, origin.count)
        if at < there { bytes += origin[at..<there] }
        bytes += [UInt8](repeating: 0, count: end - max(at, there))
      }
    }
    return bytes
  }

  @Test(
    "reads give what the index says, in pieces of any kind, and lost ranges are errors or zeros",
    arguments: 0..<12)
  func reads(_ number: UInt64) throws {
    let first = seed() &+ number
    var random = SplitMix64(seed: first)
    let loop = try EventLoop()
    let reader = Reader(loop)
    var options = RescueOptions()
    options.salvage.overrides.dataBlockSectors = RepairTrial.dataBlockSectors
    guard
      let index = try? RescueIndex(
        try RepairTrial(seed: first).device, options: options, progress: Progress())
    else { return }
    let disk = MemoryDestination(loop, byteCount: Self.dataBytes, seed: first)
    let data = (0..<Self.dataBytes).map { UInt8(truncatingIfNeeded: $0 >> 9 &* 31 &+ $0) }
    #expect(reader.perform(.write, disk, 0..<data.count, data).error == 0)
    let originDisk = MemoryDestination(loop, byteCount: Self.originBytes, seed: first &+ 1)
    let origin = (0..<Self.originBytes).map { UInt8(truncatingIfNeeded: $0 >> 9 &* 17 &+ $0) | 1 }
    #expect(reader.perform(.write, originDisk, 0..<origin.count, origin).error == 0)
    for device in index.devices.prefix(4) {
      let hasOrigin = Bool.random(using: &random)
      let lostAsZeroes = Bool.random(using: &random)
      let layout = RescueLayout(index, device, dataByteCount: UInt64(Self.dataBytes))
      let volume = RescueVolume(
        layout, loop, disk: disk, dataOffset: 0, origin: hasOrigin ? originDisk : nil,
        byteCount: UInt64(Self.volumeBytes), lostAsZeroes: lostAsZeroes)
      for _ in 0..<40 {
        let start = Int.random(in: 0..<(Self.volumeBytes / 512), using: &random) * 512
        let count = Int.random(in: 1...512, using: &random) * 512
        let range = start..<min(start + count, Self.volumeBytes)
        let expected = try expected(
          layout, range, data, hasOrigin ? origin : [], lostAsZeroes: lostAsZeroes)
        let (error, bytes) = reader.perform(.read, volume, range)
        #expect((error == EIO) == (expected == nil), "seed \(first), \(range)")
        if let expected { #expect(bytes == expected, "seed \(first), \(range)") }
        let bounds = UInt64(range.lowerBound)..<UInt64(range.upperBound)
        if volume.isHole(bounds) { #expect(expected?.allSatisfy { $0 == 0 } == true) }
        // Extents follow each other, and what they call zeros is.
        var at = bounds.lowerBound
        volume.forEachExtent(in: bounds) { extent in
          #expect(extent.offset == at && extent.byteCount > 0)
          at += extent.byteCount
          let part = Int(extent.offset) - start..<Int(at) - start
          if extent.isZero, let expected { #expect(expected[part].allSatisfy { $0 == 0 }) }
          return true
        }
        #expect(at == bounds.upperBound)
      }
      #expect(reader.perform(.write, volume, 0..<512).error == EROFS)
      #expect(
        reader.perform(.read, volume, Self.volumeBytes..<(Self.volumeBytes + 512)).error == EIO)
    }
  }

  @Test("a device whose id is larger than any that can be made is served like the others")
  func largeID() throws {
    let pool = MemoryDevice(byteCount: 100 * 4096)
    let metadata = try PoolMetadata.format(pool, dataBlockSectors: 128)
    try metadata.resizeData(to: 64)
    try metadata.commit()
    for id in ThinID(1)...2 {
      try metadata.createThin(id)
      try metadata.provision(id, 0)
    }
    try metadata.commit()
    pool.changeLastDeviceID(to: 1 << 40)
    let folder = try ScratchFolder()
    let image = (0..<pool.byteCount / 4096).flatMap { Array(pool.peek($0)) }
    let serving = RescueServing(
      metadata: try folder.file("meta", bytes: image), data: try folder.zeros("data", size: 4 << 20)
    )
    let loop = try EventLoop()
    let exports = RescueExports(serving, loop, note: { _ in }) { _, _ in
      MemoryDestination(loop, byteCount: 4 << 20, seed: 1)
    }
    #expect(try exports.make([]).map(\.name) == ["thin1", "thin1099511627776"])
  }
}
