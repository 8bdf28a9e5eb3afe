public import BlockIO
public import DataPath
import Glibc

// A userspace device below another.
extension MappedDevice: Disk {
  private func fault(_ operation: BlockIOError.Operation, _ offset: UInt64) -> BlockIOError {
    BlockIOError(operation, path: name, offset: offset, code: EIO)
  }

  /// Calls `body` for each run of bytes of one driver, with its position in the `count` bytes and
  /// on this device.
  private func forEachDriver(
    _ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64,
    _ body: (_ driver: TargetDriver, _ part: Range<Int>, _ offset: UInt64) throws(BlockIOError)
      -> Void
  ) throws(BlockIOError) {
    var done = 0
    while done < count {
      let at = offset &+ UInt64(done)
      guard let live, at < live.byteCount else { throw fault(operation, at) }
      let driver = live.driver(at: at)
      let part = done..<(done + min(count - done, Int(clamping: driver.endByte - at)))
      try body(driver, part, at)
      done = part.upperBound
    }
  }

  /// More pieces than this take too long to be found.
  private static let piecesMax = 65_536

  /// The pieces on the devices below.
  public func pieces(of range: Range<UInt64>) -> [DescriptorPiece]? {
    var pieces: [DescriptorPiece] = []
    do throws(BlockIOError) {
      let count = Int(clamping: range.upperBound - range.lowerBound)
      try forEachDriver(.read, count, at: range.lowerBound) {
        (driver, part, at) throws(BlockIOError) in
        try driver.forEachPlace(.read, part.count, at: at) {
          (below, part, place) throws(BlockIOError) in
          guard let found = below.pieces(of: place..<place + UInt64(part.count)),
            pieces.count + found.count <= Self.piecesMax
          else { throw fault(.read, at) }
          for piece in found { Self.append(piece, to: &pieces) }
        }
      }
    } catch {
      return nil
    }
    return pieces
  }

  private static func append(_ piece: DescriptorPiece, to pieces: inout [DescriptorPiece]) {
    if let last = pieces.last, last.descriptor == piece.descriptor,
      last.offset + last.byteCount == piece.offset
    {
      pieces[pieces.count - 1].byteCount += piece.byteCount
    } else {
      pieces.append(piece)
    }
  }

  /// The size is that of the live table.
  public func refreshSize() {}

  /// Requires that all devices below still exist.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {
    for driver in live?.drivers ?? [] where driver.startByte < byteCount {
      for area in driver.areas {
        try area.device.destination.requirePresence(byteCount: area.bytes.upperBound)
      }
    }
  }

  /// Reserves space for `range` (bytes) on the devices below.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {
    let count = Int(clamping: range.upperBound - range.lowerBound)
    try forEachDriver(.reserve, count, at: range.lowerBound) {
      (driver, part, at) throws(BlockIOError) in
      try driver.forEachPlace(.reserve, part.count, at: at) {
        (below, part, place) throws(BlockIOError) in
        try below.reserveSpace(place..<place + UInt64(part.count))
      }
    }
  }
}
