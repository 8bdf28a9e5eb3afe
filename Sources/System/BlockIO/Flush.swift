import Glibc

/// The meaning of a flush, the same for devices and disks of every kind (`BlockDevice.flush`,
/// `BlockOperation.flush` of the data path, a FLUSH of a client).
///
/// - **Covered** is every write, zeroing and discard of the disk that had finished when the flush was
///   submitted, whatever its way: a queue, the page cache, another thread. Once the flush has finished
///   without an error, that survives a power cut. The size of a file that has grown is part of it, its
///   times are not: block devices and files are both flushed by fdatasync(2).
/// - **Not covered** is a request in flight beside the flush. It may survive or not, and the flush does
///   not wait for it.
/// - **An error** says that some of the covered writes may not be durable, not which. The system reports
///   a write that it lost to one flush and then forgets it, so a later flush without an error does not
///   cover what a failed one covered. The caller gives up, or writes everything since the last
///   successful flush again: a pool aborts its transaction or fails, a client gets the error.
/// - **A disk opened for reading** has nothing to make durable. Its flush finishes at once, without an
///   error.
/// - **A durable write** (`BlockFlags.durable`, FUA) is covered by its own completion, and covers no
///   other.
public enum Flush {
  /// Flushes the file or block device of a descriptor. Returns 0 or the error number.
  public static func perform(_ descriptor: Int32) -> Int32 {
    while fdatasync(descriptor) != 0 {
      if errno != EINTR { return errno }
    }
    return 0
  }
}
