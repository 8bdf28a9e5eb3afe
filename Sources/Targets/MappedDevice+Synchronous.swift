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

  /// Fills `buffer` from byte `offset` on.
  public func readNow(_ buffer: UnsafeMutableRawBufferPointer, at offset: UInt64)
    throws(BlockIOError)
  {
    var done = 0
    while done < buffer.count {
      let place = try place(.read, offset &+ UInt64(done))
      let count = min(buffer.count - done, Int(clamping: place.byteCount))
      try place.device.destination.readNow(
        UnsafeMutableRawBufferPointer(rebasing: buffer[done..<(done + count)]), at: place.offset)
      done += count
    }
  }

  /// Writes all of `buffer` at byte `offset`.
  public func writeNow(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    if isReadOnly { throw BlockIOError(.write, path: name, offset: offset, code: EPERM) }
    var done = 0
    while done < buffer.count {
      let place = try place(.write, offset &+ UInt64(done))
      let count = min(buffer.count - done, Int(clamping: place.byteCount))
      try place.device.destination.writeNow(
        UnsafeRawBufferPointer(rebasing: buffer[done..<(done + count)]), at: place.offset)
      done += count
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
}
