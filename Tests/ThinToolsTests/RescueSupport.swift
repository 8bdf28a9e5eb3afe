import BlockIO
import Glibc
import Simulation
import TestSupport
import ThinFormat

@testable import ThinTools

/// A data device in memory whose every sector names itself, with sectors that cannot be read.
final class NamedSectors: BlockDevice {
  let path = "data"
  let byteCount: UInt64
  var descriptor: Int32? { nil }
  /// Sectors that fail, and how often; a large number is for ever.
  var bad: [UInt64: Int] = [:]
  /// The error of a bad sector.
  var code = EIO
  private(set) var readCount = 0
  /// The number in the content of the first sector.
  var firstSector: UInt64 = 0

  init(byteCount: UInt64) { self.byteCount = byteCount }

  /// The content of a sector: one number, again and again.
  static func fill(_ buffer: UnsafeMutableRawBufferPointer, _ sector: UInt64) {
    let number = (sector &+ 1) &* 0x9e37_79b9_7f4a_7c15
    buffer.initializeMemory(as: UInt64.self, repeating: number)
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    readCount += 1
    precondition(offset % 512 == 0 && buffer.count % 512 == 0)
    guard offset + UInt64(buffer.count) <= byteCount else {
      throw BlockIOError(.read, path: path, offset: offset, code: 0)
    }
    for sector in offset / 512..<(offset + UInt64(buffer.count)) / 512 {
      if let times = bad[sector], times > 0 {
        bad[sector] = times - 1
        throw BlockIOError(.read, path: path, offset: sector * 512, code: code)
      }
      let start = Int(sector * 512 - offset)
      Self.fill(
        UnsafeMutableRawBufferPointer(rebasing: buffer[start..<(start + 512)]), firstSector + sector
      )
    }
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
  }

  func flush() {}
}

/// An image in memory whose unflushed writes are lost, sector by sector, when the machine stops.
final class FragileImage: ExtractionOutput {
  /// As it reads now.
  private(set) var bytes: [UInt8]
  private var durable: [UInt8]
  private var unflushed: [Range<Int>] = []
  /// Calls until the machine stops; nil for never.
  var callsLeft: Int?
  private(set) var calls = 0
  /// Ranges that were zeroed, and written.
  private(set) var zeroed: [Range<UInt64>] = []
  private(set) var written: [Range<UInt64>] = []

  /// - Parameter filled: what is there before: zeros in a new file, anything on a device.
  init(byteCount: UInt64, filled: UInt8 = 0) {
    bytes = [UInt8](repeating: filled, count: Int(byteCount))
    durable = bytes
  }

  /// Counts a call, also one of the map's owner.
  func call() throws(BlockIOError) {
    calls += 1
    guard let left = callsLeft else { return }
    guard left > 0 else { throw BlockIOError(.write, path: "image", code: EPIPE) }
    callsLeft = left - 1
  }

  func write(_ source: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try call()
    bytes.replaceSubrange(Int(offset)..<(Int(offset) + source.count), with: source)
    unflushed.append(Int(offset)..<(Int(offset) + source.count))
    written.append(offset..<(offset + UInt64(source.count)))
  }

  func zero(_ range: Range<UInt64>) throws(BlockIOError) {
    try call()
    bytes.replaceSubrange(
      Int(range.lowerBound)..<Int(range.upperBound),
      with: repeatElement(0, count: Int(range.upperBound - range.lowerBound)))
    unflushed.append(Int(range.lowerBound)..<Int(range.upperBound))
    zeroed.append(range)
  }

  func flush() throws(BlockIOError) {
    try call()
    durable = bytes
    unflushed = []
  }

  /// The machine stops: of what was not flushed, some sectors are on the disk.
  func stop(_ random: inout SplitMix64) {
    for range in unflushed {
      for start in stride(from: range.lowerBound, to: range.upperBound, by: 512)
      where Bool.random(using: &random) {
        durable.replaceSubrange(start..<(start + 512), with: bytes[start..<(start + 512)])
      }
    }
    bytes = durable
    unflushed = []
    callsLeft = nil
  }
}

/// A pool made from a seed, with what its devices map.
struct RescuedPool {
  static let blockBytes: UInt64 = 65536
  let device: MemoryDevice
  let truth: DumpedPool

  init(seed: UInt64, window: UInt64 = 60, metadataSnapshots: Int = 0) throws {
    var kind = PoolHistory.Kind(
      "rescued", metadataBlocks: 400...400, commits: 8...14, operations: 5...15,
      window: window...window)
    kind.run = 6
    kind.snapshots = 90
    kind.creations = 40
    kind.discards = 120
    kind.metadataSnapshots = metadataSnapshots
    device = try PoolHistory(kind, seed: seed).device
    truth = DumpedPool(xml: try dumped(device))
  }

  /// Bytes of a data device that has every block.
  var dataByteCount: UInt64 {
    let last = truth.devices.values.flatMap { $0.mappings.values.map(\.dataBlock) }.max() ?? 0
    return (last + 1) * Self.blockBytes
  }

  var superblock: Superblock { device.superblock }

  /// The bytes of a device of a size.
  func bytes(of id: UInt64, _ byteCount: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: Int(byteCount))
    let mappings = truth.devices[id]?.mappings ?? [:]
    bytes.withUnsafeMutableBytes { buffer in
      for (block, place) in mappings {
        for sector in UInt64(0)..<(Self.blockBytes / 512) {
          let at = Int(block * Self.blockBytes + sector * 512)
          guard at + 512 <= buffer.count else { continue }
          NamedSectors.fill(
            UnsafeMutableRawBufferPointer(rebasing: buffer[at..<(at + 512)]),
            place.dataBlock * Self.blockBytes / 512 + sector)
        }
      }
    }
    return bytes
  }
}

/// The extents of a device, one after the other.
func extents(_ layout: RescueLayout, _ byteCount: UInt64) throws -> [RescueExtent] {
  var layout = layout
  var found: [RescueExtent] = []
  var offset: UInt64 = 0
  while offset < byteCount {
    let extent = try layout.extent(at: offset, limit: byteCount)
    found.append(extent)
    offset = extent.end
  }
  return found
}
