import Glibc

/// Why something is not written to an output.
///
/// Not a `ToolError`, whose shape it has: that belongs to the tools, above this, and has a kind for each
/// exit status. Here it is not known what a failure is to the caller, whose input the output may be.
public struct OutputError: Error, Equatable, Sendable, CustomStringConvertible {
  /// What sort of reason.
  public enum Kind: Sendable {
    /// The output is precious, or none at all: it is the input, a device, other metadata, a folder.
    case refused
    /// Another program uses it.
    case busy
    /// A system call failed before anything was written.
    case failed
  }

  /// What sort of reason.
  public let kind: Kind
  /// What was found, and what to do.
  public let message: String

  /// An error of `kind`.
  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  /// A system call on the output that failed when it was opened.
  public init(_ error: BlockIOError) {
    self.init(error.code == EBUSY ? .busy : .failed, error.description)
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
        .refused, "\(path) \(what)\(name): it would be destroyed. Name another output")
    }
  }

  /// The message.
  public var description: String { message }
}
