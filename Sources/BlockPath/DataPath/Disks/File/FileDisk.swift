public import BlockIO
import CDMThin
import EventLoop
import Glibc

/// A block device or regular file.
///
/// Past the page cache (O_DIRECT) its requests go through the queue. Where that is refused (tmpfs) they
/// are copies in memory, and done on the spot.
public final class FileDisk: BlockDestination, Disk {
  private let file: OpenFile
  /// What messages call it.
  public var path: String { file.path }
  /// Whether it is a block device rather than a file.
  public var isBlockDevice: Bool { file.isBlockDevice }
  /// Whether the page cache is passed by.
  public var isDirect: Bool { file.isDirect }
  /// The open descriptor, which stays the disk's.
  public var descriptor: Int32 { file.descriptor }
  private let queue: IOQueue
  private let workers: Workers
  private let readOnly: Bool
  private let sectorBytes: Int
  private var bytes: UInt64
  private let hadName: Bool
  private let isPrivate: Bool
  private let discardLimits: (most: UInt64, granularity: Int)

  /// Opens `path`: a block device exclusively (O_EXCL), a file with a lock (flock), so that no
  /// other program that asks for either has it.
  /// - Throws: `BlockIOError`; EBUSY if another program has it.
  public convenience init(
    path: String, readOnly: Bool, exclusive: Bool = true, in context: DiskContext
  ) throws(BlockIOError) {
    let file = try OpenFile(path: path, readOnly: readOnly, exclusive: exclusive)
    try self.init(file, readOnly: readOnly, isPrivate: false, in: context)
  }

  /// Takes over an open file.
  /// - Parameter isPrivate: whether its descriptor is not given to others (`openDescriptor`).
  init(_ file: OpenFile, readOnly: Bool, isPrivate: Bool, in context: DiskContext)
    throws(BlockIOError)
  {
    self.file = file
    self.readOnly = readOnly
    self.isPrivate = isPrivate
    queue = context.queue
    workers = context.workers
    var sector: Int32 = 512
    if file.isBlockDevice { _ = unsafe dmthin_block_device_sector_bytes(file.descriptor, &sector) }
    sectorBytes = Int(sector)
    discardLimits = file.isBlockDevice ? Self.discardLimits(file.descriptor) : (.max, 4096)
    bytes = 0
    hadName = file.hasName()
    super.init(context.loop)
    // From here on the descriptor is closed with the disk.
    try updateSize()
  }

  deinit { file.close() }

  /// What the system says of a block device; nothing where it says nothing.
  private static func discardLimits(_ descriptor: Int32) -> (most: UInt64, granularity: Int) {
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else { return (0, 0) }
    let number = "\(gnu_dev_major(info.st_rdev)):\(gnu_dev_minor(info.st_rdev))"
    func attribute(_ name: String) -> UInt64 {
      // Partitions have the queue of the whole device.
      for folder in ["", "../"] {
        let path = "/sys/dev/block/\(number)/\(folder)queue/\(name)"
        if let text = WholeFile.systemText(path) { return UInt64(text) ?? 0 }
      }
      return 0
    }
    return (attribute("discard_max_bytes"), Int(clamping: attribute("discard_granularity")))
  }

  /// Looks up the size again: devices and files can grow while in use.
  public func updateSize() throws(BlockIOError) { bytes = try file.byteCount() }

  /// Looks up the size again, and keeps the present one if the system does not say.
  public func refreshSize() { do throws(BlockIOError) { try updateSize() } catch {} }

  /// Its own descriptor, unless that is private.
  public var openDescriptor: Int32? { isPrivate ? nil : descriptor }

  /// Looks whether it is still there, with `byteCount` bytes at least.
  /// - Throws: `BlockIOError` with what has happened.
  public func requirePresence(byteCount: UInt64) throws(BlockIOError) {
    try file.requirePresence(byteCount: byteCount, hadName: hadName)
  }

  /// Has a file keep space for `range` (bytes); does nothing for a device, or one open for reading.
  /// - Throws: `BlockIOError` where there is not enough.
  public func reserveSpace(_ range: Range<UInt64>) throws(BlockIOError) {
    if !readOnly { try file.reserveSpace(range) }
  }

  /// Size in bytes, as of the last `updateSize`.
  public override var byteCount: UInt64 { bytes }
  /// The device's logical sector; 512 for a file.
  public override var logicalBlockBytes: Int { sectorBytes }
  /// Whether it was opened for writing and there is something that discards do.
  public override var takesDiscards: Bool { !readOnly && discardMaxBytes > 0 }
  /// As the device has it.
  public override var discardMaxBytes: UInt64 { discardLimits.most }
  /// As the device has it; 4 KiB for files.
  public override var discardBytes: Int { discardLimits.granularity }
  /// Files get a hole.
  public override var discardsToZeroes: Bool { !isBlockDevice }
  /// Whether it was opened for reading only.
  public override var isReadOnly: Bool { readOnly }

  /// Whether a file has a hole there, or nothing written yet.
  public override func isHole(_ range: Range<UInt64>) -> Bool {
    guard !isBlockDevice, range.upperBound <= bytes else { return false }
    let data = lseek(descriptor, Int(clamping: range.lowerBound), SEEK_DATA)
    return data < 0 ? errno == ENXIO : data >= Int(clamping: range.upperBound)
  }

  /// Takes a request.
  public override func submit(_ request: RequestPointer) {
    let operation = unsafe request.pointee.operation
    guard
      unsafe operation == .flush || request.pointee.byteCount >= 0 && request.pointee.end <= bytes
    else {
      unsafe loop.finishLater(request, EIO)
      return
    }
    if readOnly, operation != .read, operation != .flush {
      unsafe loop.finishLater(request, EROFS)
      return
    }
    switch operation {
    case .read, .write:
      if isDirect {
        unsafe queue.submit(request, descriptor: descriptor)
      } else {
        unsafe loop.finishLater(request, copy(request))
      }
    case .flush:
      if readOnly {
        unsafe loop.finishLater(request)
      } else {
        unsafe queue.submit(request, descriptor: descriptor)
      }
    case .discard, .writeZeroes:
      let (file, flags) = unsafe (file, request.pointee.flags)
      let (offset, count) = unsafe (request.pointee.offset, request.pointee.byteCount)
      let isDiscard = operation == .discard
      // Calls of one disk stay in order.
      unsafe workers.submit(request, lane: Int(descriptor)) {
        Self.clear(file, offset, count, isDiscard: isDiscard, flags)
      }
    }
  }

  /// A read or write through the page cache; returns the error number.
  private func copy(_ request: RequestPointer) -> Int32 {
    var code: Int32 = 0
    var offset = unsafe request.pointee.offset
    unsafe request.pointee.memory.forEachPiece(request.pointee.byteCount) { piece in
      guard code == 0 else { return }
      do throws(BlockIOError) {
        if unsafe request.pointee.operation == .read {
          try unsafe file.read(into: piece, at: offset)
        } else {
          try unsafe file.write(
            UnsafeRawBufferPointer(piece), at: offset,
            durable: request.pointee.flags.contains(.durable))
        }
      } catch {
        code = error.code == 0 ? EIO : error.code
      }
      offset += UInt64(piece.count)
    }
    return code
  }

  /// Discards or zeroes a range; on a thread of its own. Returns the error number.
  private static func clear(
    _ file: OpenFile, _ offset: UInt64, _ count: Int, isDiscard: Bool, _ flags: BlockFlags
  ) -> Int32 {
    let (start, length) = (Int64(clamping: offset), Int64(count))
    let descriptor = file.descriptor
    var status: Int32
    if file.isBlockDevice {
      status =
        isDiscard
        ? dmthin_block_device_discard(descriptor, offset, UInt64(count))
        : dmthin_block_device_zero(descriptor, offset, UInt64(count))
    } else if isDiscard || !flags.contains(.keepAllocated) {
      status = dmthin_fallocate(descriptor, dmthin_punch_hole, start, length)
    } else {
      status = dmthin_fallocate(descriptor, dmthin_zero_range, start, length)
    }
    if status != 0 {
      guard !isDiscard else { return errno }
      do throws(BlockIOError) {
        try file.writeZeros(offset..<(offset + UInt64(count)))
      } catch {
        return error.code
      }
    }
    return flags.contains(.durable) ? Flush.perform(descriptor) : 0
  }
}
