public import BlockIO
import DataPath
import Glibc

// Metadata on a userspace device. Suspension does not stop it: the pool above is suspended first.
extension MappedDevice: SynchronousDestination {
  private func fault(_ operation: BlockIOError.Operation, _ offset: UInt64) -> BlockIOError {
    BlockIOError(operation, path: name, offset: offset, code: EIO)
  }

  private func place(_ operation: BlockIOError.Operation, _ offset: UInt64)
    throws(BlockIOError) -> (device: OpenDevice, offset: UInt64, byteCount: UInt64)
  {
    guard let live, offset < live.byteCount, let place = live.driver(at: offset).place(offset)
    else { throw fault(operation, offset) }
    return place
  }

  /// Calls `body` for each run of bytes that lies on one device below: where that is, and which of
  /// the `count` bytes it is.
  private func forEachPlace(
    _ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64,
    _ body: (_ below: any SynchronousDestination, _ part: Range<Int>, _ place: UInt64)
      throws(BlockIOError) -> Void
  ) throws(BlockIOError) {
    var done = 0
    while done < count {
      let place = try place(operation, offset &+ UInt64(done))
      let part = done..<(done + min(count - done, Int(clamping: place.byteCount)))
      try body(place.device.destination, part, place.offset)
      done = part.upperBound
    }
  }

  /// Fills `buffer` from byte `offset` on.
  public func readNow(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    try forEachPlace(.read, buffer.count, at: offset) { (below, part, place) throws(BlockIOError) in
      try below.readNow(UnsafeMutableRawBufferPointer(rebasing: buffer[part]), at: place)
    }
  }

  /// Writes all of `buffer` at byte `offset`.
  public func writeNow(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    if isReadOnly { throw BlockIOError(.write, path: name, offset: offset, code: EPERM) }
    try forEachPlace(.write, buffer.count, at: offset) {
      (below, part, place) throws(BlockIOError) in
      try below.writeNow(UnsafeRawBufferPointer(rebasing: buffer[part]), at: place)
    }
  }

  /// Returns when everything acknowledged before is durable on the devices below.
  public func flushNow() throws(BlockIOError) {
    guard let live else { throw fault(.flush, 0) }
    for driver in live.drivers {
      for device in driver.opened { try device.destination.flushNow() }
    }
  }

  /// The size is that of the live table.
  public func refreshSize() {}

  /// Looks whether all that is below is still there.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {
    for driver in live?.drivers ?? [] where driver.startByte < byteCount {
      for area in driver.areas {
        try area.device.destination.requirePresence(byteCount: (area.start &+ area.length) &* 512)
      }
    }
  }

  /// Has what is below keep space for `range` (bytes).
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {
    let count = Int(clamping: range.upperBound - range.lowerBound)
    try forEachPlace(.reserve, count, at: range.lowerBound) {
      (below, part, place) throws(BlockIOError) in
      try below.reserveSpace(place..<place + UInt64(part.count))
    }
  }
}
