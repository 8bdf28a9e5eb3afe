import BlockIO
import EventLoop
import Glibc

extension DiskKind {
  /// `null:SIZE`.
  static let null = DiskKind(
    "null", form: "SIZE[/NAME]",
    summary: "reads as zeros and forgets what is written, to measure everything but the disk"
  ) { (rest) throws(BlockIOError) in
    let (bytes, word) = try DiskResolver.size(rest, of: "null")
    return FoundDisk(
      name: "null:\(rest)", identity: "null:\(bytes)b\(word)", blankByteCount: bytes
    ) { (readOnly, context) throws(BlockIOError) in
      NullDisk(byteCount: bytes, readOnly: readOnly, context.loop)
    }
  }
}

/// Zeros.
final class NullDisk: BlockDestination, Disk {
  private let bytes: UInt64
  private let readOnly: Bool

  init(byteCount: UInt64, readOnly: Bool, _ loop: EventLoop) {
    bytes = byteCount
    self.readOnly = readOnly
    super.init(loop)
  }

  override var byteCount: UInt64 { bytes }
  override var discardBytes: Int { 512 }
  override var takesDiscards: Bool { !readOnly }
  override var discardsToZeroes: Bool { true }
  override var zeroesFast: Bool { true }
  override var isReadOnly: Bool { readOnly }
  override func isHole(_ range: Range<UInt64>) -> Bool { range.upperBound <= bytes }

  override func submit(_ request: RequestPointer) {
    let operation = unsafe request.pointee.operation
    if operation == .flush { return unsafe loop.finishLater(request) }
    let (end, overflow) = unsafe request.pointee.offset.addingReportingOverflow(
      UInt64(clamping: request.pointee.byteCount))
    if overflow || end > bytes { return unsafe loop.finishLater(request, EIO) }
    if readOnly, operation != .read { return unsafe loop.finishLater(request, EROFS) }
    if operation == .read { unsafe request.pointee.memory.zero(request.pointee.byteCount) }
    unsafe loop.finishLater(request)
  }
}
