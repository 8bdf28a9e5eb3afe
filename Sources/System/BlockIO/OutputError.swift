import Glibc

/// The refusal of an output.
public struct OutputError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The reason.
  public enum Reason: Equatable, Sendable {
    /// The output is valuable or unsuitable: it is the input, a device, other metadata, a folder.
    case precious
    /// Another program uses it.
    case inUse
    /// A system call failed before anything was written.
    case failed(BlockIOError)
  }

  /// The reason.
  public let reason: Reason
  /// What was found, and what to do.
  public let message: String

  /// A refusal for `reason`.
  public init(_ reason: Reason, _ message: String) {
    self.reason = reason
    self.message = message
  }

  /// The failure of a system call that opened the output.
  public init(_ error: BlockIOError) {
    self.init(error.isInUse ? .inUse : .failed(error), error.description)
  }

  /// Refuses an output that is one of the inputs, or shares blocks with one.
  static func requireOther(_ output: FileIdentity, _ path: String, _ inputs: [String])
    throws(OutputError)
  {
    for input in inputs {
      guard let identity = FileIdentity(path: input), output.overlaps(identity) else { continue }
      let what = output == identity ? "is the input" : "shares blocks with the input"
      let name = path == input ? "" : ", \(input)"
      throw OutputError(
        .precious, "\(path) \(what)\(name): it would be destroyed. Give another output")
    }
  }

  /// The message.
  public var description: String { message }
}
