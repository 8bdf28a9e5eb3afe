public import BlockIO
import CDMThin
import Glibc

/// A block device or regular file as a destination.
///
/// Past the page cache (O_DIRECT) its requests go through the queue. Where that is refused (tmpfs) they
/// are copies in memory, and done on the spot.
public final class Disk: BlockDestination {
  /// What messages call it.
  public let path: String
  /// Whether it is a block device rather than a file.
  public let isBlockDevice: Bool
  /// Whether the page cache is passed by.
  public let isDirect: Bool
  /// The open descriptor, which stays the disk's.
  public let descriptor: Int32
  private let loop: EventLoop
  private let queue: IOQueue
  private let worker: BlockingWorker
  private let readOnly: Bool
  private let sectorBytes: Int
  private var bytes: UInt64

  /// Opens `path`: a block device exclusively (O_EXCL), a file with a lock (flock), so that nobody
  /// else who asks for either has it.
  /// - Throws: `BlockIOError`; EBUSY where somebody has it.
  public init(
    path: String, readOnly: Bool, exclusive: Bool = true, loop: EventLoop, queue: IOQueue,
    worker: BlockingWorker
  ) throws(BlockIOError) {
    var info = stat()
    guard stat(path, &info) == 0 else { throw BlockIOError(.open, path: path, code: errno) }
    let type = info.st_mode & S_IFMT
    guard type == S_IFREG || type == S_IFBLK else {
      throw BlockIOError(.open, path: path, code: ENOTBLK)
    }
    isBlockDevice = type == S_IFBLK
    var flags = O_CLOEXEC | (readOnly ? O_RDONLY : O_RDWR)
    if exclusive && isBlockDevice { flags |= O_EXCL }
    var fd = open(path, flags | dmthin_o_direct)
    let isDirect = fd >= 0
    if fd < 0 && errno == EINVAL { fd = open(path, flags) }
    guard fd >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    if exclusive && !isBlockDevice && flock(fd, (readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0 {
      let code = errno == EWOULDBLOCK ? EBUSY : errno
      Glibc.close(fd)
      throw BlockIOError(.open, path: path, code: code)
    }
    var sector: Int32 = 512
    if isBlockDevice { _ = dmthin_block_device_sector_bytes(fd, &sector) }
    self.path = path
    self.isDirect = isDirect
    self.readOnly = readOnly
    self.loop = loop
    self.queue = queue
    self.worker = worker
    descriptor = fd
    sectorBytes = isBlockDevice ? Int(sector) : 512
    bytes = 0
    super.init()
    try updateSize()
  }

  deinit { Glibc.close(descriptor) }

  /// Looks up the size anew: devices and files can grow while in use.
  public func updateSize() throws(BlockIOError) {
    if isBlockDevice {
      guard dmthin_block_device_bytes(descriptor, &bytes) == 0 else {
        throw BlockIOError(.size, path: path, code: errno)
      }
    } else {
      var info = stat()
      guard fstat(descriptor, &info) == 0 else {
        throw BlockIOError(.size, path: path, code: errno)
      }
      bytes = UInt64(max(0, info.st_size))
    }
  }

  /// Size in bytes, as of the last `updateSize`.
  public override var byteCount: UInt64 { bytes }
  /// The device's logical sector; 512 for a file.
  public override var logicalBlockBytes: Int { sectorBytes }
  /// Whether it was opened for writing.
  public override var takesDiscards: Bool { !readOnly }
  /// Files get a hole.
  public override var discardsToZeroes: Bool { !isBlockDevice }
  /// Whether it was opened for reading only.
  public override var isReadOnly: Bool { readOnly }

  /// Takes a request.
  public override func submit(_ request: RequestPointer) {
    let operation = request.pointee.operation
    guard operation == .flush || request.pointee.byteCount >= 0 && request.pointee.end <= bytes
    else {
      loop.finishLater(request, EIO)
      return
    }
    if readOnly, operation != .read, operation != .flush {
      loop.finishLater(request, EROFS)
      return
    }
    switch operation {
    case .read, .write:
      if isDirect {
        queue.submit(request, descriptor: descriptor)
      } else {
        loop.finishLater(request, copy(request))
      }
    case .flush:
      if readOnly {
        loop.finishLater(request)
      } else {
        queue.submit(request, descriptor: descriptor)
      }
    case .discard, .writeZeroes:
      let (descriptor, isBlockDevice) = (descriptor, isBlockDevice)
      let (offset, count) = (request.pointee.offset, request.pointee.byteCount)
      let (flags, isDiscard) = (request.pointee.flags, operation == .discard)
      worker.submit(request) {
        Self.clear(
          descriptor, isBlockDevice: isBlockDevice, offset, count, isDiscard: isDiscard, flags)
      }
    }
  }

  /// A read or write through the page cache; returns the error number.
  private func copy(_ request: RequestPointer) -> Int32 {
    var done = 0
    let count = request.pointee.byteCount
    while done < count {
      let part = request.pointee.buffer.map { $0 + done }
      let offset = Int(clamping: request.pointee.offset) + done
      let n: Int
      if request.pointee.operation == .read {
        n = pread(descriptor, part, count - done, offset)
      } else if request.pointee.flags.contains(.durable) {
        n = dmthin_pwrite_dsync(descriptor, part, count - done, Int64(offset))
      } else {
        n = pwrite(descriptor, part, count - done, offset)
      }
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return n < 0 ? errno : EIO }
      done += n
    }
    return 0
  }

  /// Discards or zeroes a range; on the worker's thread.
  private static func clear(
    _ descriptor: Int32, isBlockDevice: Bool, _ offset: UInt64, _ count: Int, isDiscard: Bool,
    _ flags: BlockFlags
  ) -> Int32 {
    let (start, length) = (Int64(clamping: offset), Int64(count))
    var status: Int32
    if isBlockDevice {
      status =
        isDiscard
        ? dmthin_block_device_discard(descriptor, offset, UInt64(count))
        : dmthin_block_device_zero(descriptor, offset, UInt64(count))
    } else if isDiscard || !flags.contains(.keepAllocated) {
      status = dmthin_fallocate(descriptor, dmthin_punch_hole, start, length)
    } else {
      status = dmthin_fallocate(descriptor, dmthin_zero_range, start, length)
    }
    if status != 0 && !isDiscard { status = writeZeroes(descriptor, start, length) }
    if status == 0 && flags.contains(.durable) { status = fdatasync(descriptor) }
    return status == 0 ? 0 : errno
  }

  private static func writeZeroes(_ descriptor: Int32, _ start: Int64, _ length: Int64) -> Int32 {
    let buffer = AlignedBuffer(count: 1 << 20)
    var done: Int64 = 0
    while done < length {
      let n = pwrite(
        descriptor, buffer.bytes.baseAddress, Int(min(length - done, 1 << 20)), Int(start + done))
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else {
        if n == 0 { errno = EIO }
        return -1
      }
      done += Int64(n)
    }
    return 0
  }
}
