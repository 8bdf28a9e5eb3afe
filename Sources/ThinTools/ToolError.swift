public import BlockIO
import Glibc
public import PersistentData
public import ThinFormat
public import ThinMetadata

/// Why a tool or a verb on a pool stopped: what happened, with what is known of it, and how it is told.
/// What a program ends with then is for its commands to decide.
public struct ToolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Which end of the work something belongs to.
  public enum Side: Equatable, Sendable {
    /// What is read or worked on.
    case input
    /// What is written.
    case output
  }

  /// What happened. Cases without a value are told by the message alone.
  public enum Cause: Equatable, Sendable {
    /// A system call failed.
    case system(BlockIOError)
    /// An output is not written to.
    case output(OutputError)
    /// A pool's metadata cannot be looked at, or has no such metadata snapshot.
    case metadata(MetadataError)
    /// A tree of the metadata is damaged.
    case tree(TreeFault)
    /// A block is not what its place says.
    case block(UInt64, FormatError)
    /// An operation on a pool's metadata was refused or failed.
    case pool(PoolError)
    /// A command of the device-mapper failed with this error number.
    case command(code: Int32)
    /// The metadata is damaged, or too much of it is lost.
    case damaged
    /// The metadata asks for a check first.
    case needsCheck
    /// A dump in XML is malformed, contradicts itself or asks for what no pool can be.
    case invalidDump
    /// Nothing of that name is there.
    case notFound(Side)
    /// It is there, and cannot be opened or is not of a kind that is of use.
    case unsuitable(Side)
    /// The output has too little room, or the devices are too small for a pool.
    case outOfSpace
    /// What would be overwritten is kept.
    case precious
    /// Something else uses it, has its name, or works on it.
    case inUse
    /// What was asked does not fit this pool, or this program.
    case refused
    /// The system or a device did something that leaves no way on.
    case unexpected
  }

  /// What happened.
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

  /// An output that is not written to.
  public init(_ error: OutputError) { self.init(.output(error), error.message) }

  /// A pool's metadata that cannot be looked at.
  public init(_ error: MetadataError) { self.init(.metadata(error), "\(error)") }

  /// A damaged tree.
  /// - Parameter advice: a line on what to do, if any.
  public init(_ fault: TreeFault, advice: String? = nil) {
    self.init(.tree(fault), "\(fault)" + (advice.map { "\n\($0)" } ?? ""))
  }

  /// A block that is not what its place says.
  public init(block: UInt64, role: String, _ error: FormatError) {
    self.init(.block(block, error), "\(role) at block \(block): \(error)")
  }

  /// What a pool refused, or failed to do.
  public init(_ error: PoolError) {
    switch error {
    case .io(let error), .block(_, .io(let error)): self.init(error)
    case .block, .inconsistent:
      self.init(.pool(error), "\(error); run thin_check to see what is wrong")
    case .metadataFull, .dataFull, .notFound, .exists, .busy, .invalid, .failed, .absent:
      self.init(.pool(error), "\(error)")
    }
  }

  /// The same, told in other words.
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

  /// Whether something else uses what was asked for.
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
