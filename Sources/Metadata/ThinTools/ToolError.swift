public import BlockIO
import Glibc
public import PersistentData
public import ThinFormat
public import ThinMetadata

/// Why a tool or a verb on a pool stopped: the cause with its facts, and the message. The commands
/// choose the exit status.
public struct ToolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The side of the work.
  public enum Side: Equatable, Sendable {
    /// The input.
    case input
    /// The output.
    case output
  }

  /// The cause of an error. Cases without a value are described only by the message.
  public enum Cause: Equatable, Sendable {
    /// A system call failed.
    case system(BlockIOError)
    /// An output was refused.
    case output(OutputError)
    /// A pool's metadata is unreadable, or has no such metadata snapshot.
    case metadata(MetadataError)
    /// A tree of the metadata is damaged.
    case tree(TreeFault)
    /// A block has the wrong format.
    case block(MetadataBlock, FormatError)
    /// An operation on a pool's metadata was refused or failed.
    case pool(PoolError)
    /// A command of the device-mapper failed with this error number.
    case command(code: Int32)
    /// The metadata is damaged, or too much of it is lost.
    case damaged
    /// The metadata needs a check.
    case needsCheck
    /// A dump in XML is malformed, contradicts itself or describes an impossible pool.
    case invalidDump
    /// Nothing of that name exists.
    case notFound(Side)
    /// It exists, but cannot be opened or is of the wrong kind.
    case unsuitable(Side)
    /// The output is too small, or the devices are too small for a pool.
    case outOfSpace
    /// Valuable content would be overwritten, and is kept.
    case precious
    /// It is in use, its name is taken, or another command works on it.
    case inUse
    /// The operation does not fit this pool, or this program.
    case refused
    /// The system or a device behaved unexpectedly.
    case unexpected
  }

  /// The cause.
  public let cause: Cause
  /// One or more lines for the user: what was found, where, and what to do.
  public let message: String

  /// An error by `cause`.
  public init(_ cause: Cause, _ message: String) {
    self.cause = cause
    self.message = message
  }

  /// A failed system call.
  public init(_ error: BlockIOError) { self.init(.system(error), error.description) }

  /// An output that was refused.
  public init(_ error: OutputError) { self.init(.output(error), error.message) }

  /// Unreadable metadata of a pool.
  public init(_ error: MetadataError) { self.init(.metadata(error), "\(error)") }

  /// A damaged tree.
  /// - Parameter advice: a line about what to do, if any.
  public init(_ fault: TreeFault, advice: String? = nil) {
    self.init(.tree(fault), "\(fault)" + (advice.map { "\n\($0)" } ?? ""))
  }

  /// A block of the wrong format.
  public init(block: MetadataBlock, role: String, _ error: FormatError) {
    self.init(.block(block, error), "\(role) at block \(block): \(error)")
  }

  /// An operation that a pool refused, or failed.
  public init(_ error: PoolError) {
    switch error {
    case .io(let error), .block(_, .io(let error)): self.init(error)
    case .block, .inconsistent:
      self.init(.pool(error), "\(error); run thin_check to see what is wrong")
    case .metadataFull, .dataFull, .notFound, .exists, .busy, .invalid, .failed, .absent:
      self.init(.pool(error), "\(error)")
    }
  }

  /// The same error with another message.
  public func saying(_ message: String) -> ToolError { ToolError(cause, message) }

  /// Whether the metadata was found damaged.
  public var isDamage: Bool {
    switch cause {
    case .tree, .block, .damaged, .needsCheck, .pool(.block), .pool(.inconsistent): true
    case .metadata(let error):
      switch error {
      case .superblock, .tree, .deviceMismatch: true
      case .noMetadataSnapshot, .otherMetadataSnapshot: false
      }
    default: false
    }
  }

  /// Whether the resource is in use.
  public var isInUse: Bool {
    switch cause {
    case .inUse, .command(code: EBUSY): true
    case .output(let error): error.reason == .inUse
    case .system(let error): error.isInUse
    default: false
    }
  }

  /// The message.
  public var description: String { message }
}
