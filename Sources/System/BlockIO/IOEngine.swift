public import Glibc

/// What the system is asked to do.
public enum IOOperation: UInt8, Sendable {
  case read
  case write
  /// A write that is durable when it completes.
  case durableWrite
  /// See `Flush`.
  case flush
}

/// An operation that has completed.
public struct IOCompletion {
  /// Its slot.
  public var slot: Int
  /// Bytes transferred, 0 for a flush, or a negative error number.
  public var result: Int

  /// A completion.
  public init(slot: Int, result: Int) {
    self.slot = slot
    self.result = result
  }
}

/// Operations in flight on descriptors, through a queue of the system. `BlockStream` waits in it, a loop
/// polls it when the event descriptor is ready. Used by one thread at a time.
///
/// The caller numbers operations by slots, from 0 up to the engine's depth. A slot is in use from `prepare`
/// to its completion, or until it is taken out of the batch. The caller keeps memory and vectors in place
/// for as long.
public protocol IOEngine: AnyObject {
  /// Adds an operation to the batch.
  /// - Parameters:
  ///   - vectors: the memory; the system may read the vectors until the operation completes.
  ///   - offset: the first byte of the file or device.
  func prepare(
    _ slot: Int, _ operation: IOOperation, descriptor: Int32,
    _ vectors: UnsafeMutablePointer<iovec>, count: Int, offset: UInt64)
  /// Sends the batch, oldest first, by one system call.
  /// - Returns: the number of operations that the system took, which leave the batch; or a negative error
  ///   number, which is EAGAIN if the system takes no more for now, and otherwise the refusal of the first.
  func send() -> Int
  /// Takes the oldest operation out of the batch; nil if that is empty.
  func takeUnsent() -> Int?
  /// Whether there seem to be completions, without a system call. False if that is not known.
  var hasCompletions: Bool { get }
  /// Takes completions.
  /// - Parameter waits: whether to wait for the first; only with operations in flight.
  /// - Returns: their number.
  func take(
    _ completions: UnsafeMutablePointer<IOCompletion>, max: Int, waits: Bool
  ) -> Int
}
