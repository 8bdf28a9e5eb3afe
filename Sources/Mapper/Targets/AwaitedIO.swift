import BlockIO
import DataPath
import EventLoop
import Glibc

/// Requests of one who waits for them: the code is set aside meanwhile (`EventLoop.begin`).
final class AwaitedIO: RequestOwner {
  private let destination: BlockDestination
  private let path: String
  private let requests: RequestPool
  private let pause: Pause
  private var left = 0
  /// The first failure.
  private var failure: BlockIOError?

  init(_ destination: BlockDestination, path: String, _ requests: RequestPool) {
    self.destination = destination
    self.path = path
    self.requests = requests
    pause = Pause(destination.loop)
    super.init()
  }

  /// Sends a request.
  func send(
    _ operation: BlockOperation, _ bytes: UnsafeRawBufferPointer? = nil, at offset: UInt64 = 0,
    flags: BlockFlags = []
  ) {
    left += 1
    unsafe destination.submit(
      requests.take(
        operation, offset: offset, byteCount: bytes?.count ?? 0,
        buffer: UnsafeMutableRawPointer(mutating: bytes?.baseAddress), flags: flags, owner: self))
  }

  override func requestDone(_ request: RequestPointer) {
    let (code, offset) = unsafe (request.pointee.errorNumber, request.pointee.offset)
    if code != 0, failure == nil {
      let operation: BlockIOError.Operation =
        switch unsafe request.pointee.operation {
        case .read: .read
        case .flush: .flush
        default: .write
        }
      failure = BlockIOError(operation, path: path, offset: offset, code: code)
    }
    unsafe requests.give(request)
    left -= 1
    if left == 0 { pause.end() }
  }

  /// Returns when all that was sent is done.
  /// - Throws: the first failure.
  func wait() throws(BlockIOError) {
    if left > 0 { pause.wait() }
    // Requests that are under way do not keep this, their owner.
    withExtendedLifetime(self) {}
    if let failure { throw failure }
  }
}

extension OpenDevice {
  /// Returns when everything that had ended before is durable; see `Flush`.
  func flush(_ requests: RequestPool) throws(BlockIOError) {
    let io = AwaitedIO(direct, path: text, requests)
    unsafe io.send(.flush)
    try io.wait()
  }
}

/// A device below as the engine wants it, for the metadata of a pool: the caller waits.
final class MetadataDevice: BlockDevice {
  private let opened: OpenDevice
  private let requests = RequestPool()

  init(_ opened: OpenDevice) { self.opened = opened }

  var path: String { opened.text }
  var byteCount: UInt64 { opened.direct.byteCount }
  var descriptor: Int32? { nil }

  private func begin(_ operation: BlockIOError.Operation, _ count: Int, at offset: UInt64)
    throws(BlockIOError) -> AwaitedIO
  {
    let (end, overflow) = offset.addingReportingOverflow(UInt64(count))
    guard !overflow, end <= byteCount else {
      throw BlockIOError(operation, path: path, offset: offset, code: EIO)
    }
    if operation == .write, opened.direct.isReadOnly {
      throw BlockIOError(.write, path: path, offset: offset, code: EROFS)
    }
    return AwaitedIO(opened.direct, path: path, requests)
  }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    let io = try begin(.read, buffer.count, at: offset)
    unsafe io.send(.read, UnsafeRawBufferPointer(buffer), at: offset)
    try io.wait()
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    try unsafe write([BlockPiece(buffer, at: offset)])
  }

  func write(_ pieces: [BlockPiece]) throws(BlockIOError) {
    guard let last = pieces.last else { return }
    let io = try unsafe begin(.write, last.bytes.count, at: last.offset)
    for piece in pieces { unsafe io.send(.write, piece.bytes, at: piece.offset) }
    try io.wait()
  }

  func flush() throws(BlockIOError) { try opened.flush(requests) }
}
