public import BlockIO
public import DataPath
public import Simulation

/// Memory for the data of a request: up to five pieces that lie apart, in another order than the data.
public final class ScatteredData {
  private let buffer: AlignedBuffer
  private let pieces: UnsafeMutablePointer<RequestMemory.Piece>
  private let count: Int
  private let byteCount: Int

  /// Memory of `byteCount` bytes, cut at multiples of `unit`.
  public init(byteCount: Int, unit: Int, _ random: inout SplitMix64) {
    self.byteCount = byteCount
    let units = byteCount / unit
    var cuts: Set<Int> = [0, byteCount]
    for _ in 0..<Int.random(in: 0...4, using: &random) where units > 1 {
      cuts.insert(Int.random(in: 1..<units, using: &random) * unit)
    }
    let bounds = cuts.sorted()
    count = max(1, bounds.count - 1)
    pieces = .allocate(capacity: count)
    // A gap behind each one, so that no two can pass for one.
    buffer = AlignedBuffer(count: (byteCount + count * unit + 4095) / 4096 * 4096)
    var place = 0
    for index in (0..<count).shuffled(using: &random) {
      let length = bounds.count > 1 ? bounds[index + 1] - bounds[index] : 0
      (pieces + index).initialize(
        to: .init(start: buffer.bytes.baseAddress.unsafelyUnwrapped + place, byteCount: length))
      place += length + unit
    }
  }

  deinit { pieces.deallocate() }

  /// The pieces, for a request.
  public var memory: RequestMemory {
    count == 1 ? RequestMemory(pieces[0].start) : RequestMemory(pieces: pieces)
  }

  /// Takes the data from the start of a buffer.
  public func take(from buffer: AlignedBuffer) {
    if let place = buffer.bytes.baseAddress { memory.copy(from: place, byteCount) }
  }

  /// Puts the data at the start of a buffer.
  public func put(into buffer: AlignedBuffer) {
    if let place = buffer.bytes.baseAddress { memory.copy(to: place, byteCount) }
  }
}
