public import BlockIO
import ThinFormat

/// A range of a thin device, and where its bytes are.
public struct RescueExtent: Equatable, Sendable {
  /// What a range holds.
  public enum Kind: Equatable, Sendable {
    /// Bytes of the data device, from this one on.
    case data(UInt64)
    /// Bytes of the external origin, from this one on: nothing is mapped.
    case origin(UInt64)
    /// Nothing is mapped: it reads as zeros.
    case hole
    /// What was mapped is lost with metadata.
    case lost
    /// It is mapped beyond the end of the data device.
    case beyond
  }

  /// What it holds.
  public var kind: Kind
  /// First byte.
  public var offset: UInt64
  /// Bytes, at least 1.
  public var byteCount: UInt64

  /// An extent.
  public init(kind: Kind, offset: UInt64, byteCount: UInt64) {
    self.kind = kind
    self.offset = offset
    self.byteCount = byteCount
  }

  /// The byte after the last.
  public var end: UInt64 { offset + byteCount }
  /// Whether there are bytes to be read.
  public var isReadable: Bool {
    switch kind {
    case .data, .origin: true
    case .hole, .lost, .beyond: false
    }
  }
  /// Whether what was there is lost.
  public var isLost: Bool { kind == .lost || kind == .beyond }
}

/// Where the bytes of a thin device are on a data device of a certain size, and on an external origin.
public struct RescueLayout {
  private let index: RescueIndex
  /// The device.
  public let device: RescueDevice
  /// Bytes of the data device that can be read.
  public let dataByteCount: UInt64
  /// Bytes of the external origin, which show where nothing is mapped; 0 without one.
  public let originByteCount: UInt64
  /// Bytes of a data block.
  public var blockByteCount: UInt64 { blockBytes }
  private let blockBytes: UInt64
  private var lastSlice: UInt64
  private var lastRun: UInt64 = 0

  /// The layout of a device of `index`.
  public init(
    _ index: RescueIndex, _ device: RescueDevice, dataByteCount: UInt64, originByteCount: UInt64 = 0
  ) {
    self.index = index
    self.device = device
    self.dataByteCount = dataByteCount
    self.originByteCount = originByteCount
    blockBytes = index.blockBytes
    lastSlice = device.slices.lowerBound
  }

  /// The size in bytes that its mappings show.
  public var knownByteCount: UInt64 {
    let (bytes, overflow) = device.knownBlocks.multipliedReportingOverflow(by: blockBytes)
    return overflow || bytes > UInt64(Int64.max)
      ? UInt64(Int64.max) / blockBytes * blockBytes : bytes
  }

  /// What the range from `offset` to at most `limit` begins with. Callers that go forward are the fastest.
  /// - Precondition: `offset` is below `limit`.
  /// - Throws: `BlockIOError` if the index is in a temporary file, and cannot be read.
  public mutating func extent(at offset: UInt64, limit: UInt64) throws(BlockIOError) -> RescueExtent
  {
    precondition(offset < limit)
    let block = offset / blockBytes
    func extent(_ kind: RescueExtent.Kind, to end: UInt64) -> RescueExtent {
      RescueExtent(kind: kind, offset: offset, byteCount: min(end, limit) - offset)
    }
    func byte(_ block: UInt64) -> UInt64 {
      let (bytes, overflow) = block.multipliedReportingOverflow(by: blockBytes)
      return overflow ? .max : bytes
    }
    func unmapped(to end: UInt64) -> RescueExtent {
      offset < originByteCount
        ? extent(.origin(offset), to: min(end, originByteCount)) : extent(.hole, to: end)
    }
    let found = try find(block)
    if let run = found.run {
      let end = byte(run.virtualBlock + run.length)
      let start = byte(run.dataBlock)
      let skipped = offset - byte(run.virtualBlock)
      guard start < dataByteCount, skipped < dataByteCount - start else {
        return extent(.beyond, to: end)
      }
      return extent(
        .data(start + skipped), to: min(end, offset + (dataByteCount - start - skipped)))
    }
    let next = found.next.map(byte) ?? .max
    var (low, high) = (0, device.lost.count)
    while low < high {
      let middle = (low + high) / 2
      if device.lost[middle].upperBound.rawValue <= block {
        low = middle + 1
      } else {
        high = middle
      }
    }
    guard low < device.lost.count else { return unmapped(to: next) }
    let lost = device.lost[low].rawValues
    return lost.lowerBound <= block
      ? extent(.lost, to: min(next, byte(lost.upperBound)))
      : unmapped(to: min(next, byte(lost.lowerBound)))
  }

  /// The run that has a block; otherwise the first mapped block after it.
  private mutating func find(_ block: UInt64) throws(BlockIOError) -> (
    run: RescueRun?, next: UInt64?
  ) {
    let all = device.slices
    guard !all.isEmpty else { return (nil, nil) }
    // The last slice that begins at the block or before.
    var number = lastSlice
    if try !isLast(number, block) {
      number += 1
      if try !isLast(number, block) {
        number = try last(all) { [index] i throws(BlockIOError) in
          try index.slices.record(i).firstVirtual <= block
        }
      }
    }
    let slice = try index.slices.record(number)
    if number != lastSlice {
      lastSlice = number
      lastRun = 0
    }
    guard slice.firstVirtual <= block else { return (nil, slice.firstVirtual) }
    let runs = slice.firstRun..<(slice.firstRun + slice.runCount)
    var place = max(lastRun, runs.lowerBound)
    if try !isLastRun(place, runs, block) {
      place += 1
      if try !isLastRun(place, runs, block) {
        place = try last(runs) { [index] i throws(BlockIOError) in
          try index.runs.record(i).virtualBlock <= block
        }
      }
    }
    lastRun = place
    let run = try index.runs.record(place)
    if block < run.virtualBlock + run.length { return (run, nil) }
    if place + 1 < runs.upperBound {
      return (nil, try index.runs.record(place + 1).virtualBlock)
    }
    guard number + 1 < all.upperBound else { return (nil, nil) }
    return (nil, try index.slices.record(number + 1).firstVirtual)
  }

  private func isLast(_ number: UInt64, _ block: UInt64) throws(BlockIOError) -> Bool {
    guard device.slices.contains(number), try index.slices.record(number).firstVirtual <= block
    else { return false }
    guard number + 1 < device.slices.upperBound else { return true }
    return try index.slices.record(number + 1).firstVirtual > block
  }

  private func isLastRun(_ number: UInt64, _ runs: Range<UInt64>, _ block: UInt64)
    throws(BlockIOError) -> Bool
  {
    guard runs.contains(number), try index.runs.record(number).virtualBlock <= block else {
      return false
    }
    guard number + 1 < runs.upperBound else { return true }
    return try index.runs.record(number + 1).virtualBlock > block
  }

  /// The last number of `range` for which `isBefore` holds, which it does for the first ones; the first
  /// number if it holds for none.
  private func last(
    _ range: Range<UInt64>, _ isBefore: (UInt64) throws(BlockIOError) -> Bool
  ) throws(BlockIOError) -> UInt64 {
    var (low, high) = (range.lowerBound, range.upperBound)
    while low < high {
      let middle = low + (high - low) / 2
      if try isBefore(middle) { low = middle + 1 } else { high = middle }
    }
    return low == range.lowerBound ? low : low - 1
  }
}
