/// Something that a diagnosis found.
public struct Diagnosis: Equatable, Sendable {
  /// How much it matters.
  public enum Severity: String, Sendable {
    /// The pool does not work, or not in full.
    case problem
    /// It will not for long, or something is left over.
    case warning
    /// Worth knowing.
    case note
  }

  /// How much it matters.
  public var severity: Severity
  /// A word for programs, which stays the same.
  public var code: String
  /// What is wrong, and why.
  public var cause: String
  /// Commands to run next, in order; words in capitals are the user's to fill in.
  public var next: [String]

  /// A finding.
  public init(_ severity: Severity, _ code: String, _ cause: String, next: [String] = []) {
    self.severity = severity
    self.code = code
    self.cause = cause
    self.next = next
  }
}
