public import ThinTools

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
  /// The numbers of `cause` as values with names, where it has any.
  public var fault: FaultFields?

  /// A finding.
  public init(
    _ severity: Severity, _ code: String, _ cause: String, next: [String] = [],
    fault: FaultFields? = nil
  ) {
    self.fault = fault
    self.severity = severity
    self.code = code
    self.cause = cause
    self.next = next
  }
}

extension FaultFields {
  /// Two numbers that should be the same.
  static func numbers(_ kind: String, _ expected: UInt64, found: UInt64) -> FaultFields {
    var fields = FaultFields(kind)
    fields.expected = .number(expected)
    fields.found = .number(found)
    return fields
  }

  /// A metadata block.
  static func block(_ kind: String, _ block: UInt64) -> FaultFields {
    var fields = FaultFields(kind)
    fields.block = block
    return fields
  }
}
