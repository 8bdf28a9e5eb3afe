public import BlockIO
import Glibc
public import ThinFormat
public import ThinMetadata

/// Why a tool stopped. Commands turn the kind into an exit status and print the message.
public struct ToolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What sort of thing went wrong.
  public enum Kind: Sendable {
    /// The metadata, or a dump of it, is not what it should be.
    case damaged
    /// The input cannot be found or is not of a kind that can be read.
    case input
    /// The output cannot be found, created, or is too small.
    case output
    /// A system call failed on a device or file that was opened.
    case inputOutput
    /// The reader of the output has gone away, which is for it to decide.
    case closedPipe
    /// Another program uses the device.
    case busy
    /// The request makes no sense for this pool.
    case request
  }

  /// What sort of thing went wrong.
  public let kind: Kind
  /// One or more lines for the user: what was found, where, and what to do.
  public let message: String

  /// An error of `kind`.
  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  /// A failed system call.
  public init(_ error: BlockIOError) {
    kind =
      switch error.operation {
      case .open where error.code == EBUSY: .busy
      case .write where error.code == EPIPE: .closedPipe
      case .open, .size: .input
      case .create, .replace, .keep: .output
      default: .inputOutput
      }
    message = error.description
  }

  /// An output that is not written to.
  /// - Parameter failed: the kind where it cannot be opened.
  public init(_ error: OutputError, failed: Kind = .output) {
    let kind: Kind =
      switch error.kind {
      case .busy: .busy
      case .refused: .output
      case .failed: failed
      }
    self.init(kind, error.message)
  }

  /// A pool's metadata that cannot be looked at.
  public init(_ error: MetadataError) {
    let kind: Kind =
      switch error {
      case .noMetadataSnapshot, .otherMetadataSnapshot: .request
      case .superblock, .tree, .deviceMismatch: .damaged
      }
    self.init(kind, "\(error)")
  }

  /// A block that is not what its place says.
  public init(block: UInt64, role: String, _ error: FormatError) {
    self.init(.damaged, "\(role) at block \(block): \(error)")
  }

  /// The message.
  public var description: String { message }
}
