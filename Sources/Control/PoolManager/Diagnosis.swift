import ThinFormat
public import ThinTools

/// One finding of a diagnosis.
public struct Diagnosis: Equatable, Sendable {
  /// The severity of a finding.
  public enum Severity: String, Sendable {
    /// The pool does not work, or only in part.
    case problem
    /// The pool will stop working, or something was left behind.
    case warning
    /// Information only.
    case note
  }

  /// The severity.
  public var severity: Severity
  /// A word for programs; it never changes.
  public var code: String
  /// The problem and its reason.
  public var cause: String
  /// Commands to run next, in order. Words in capitals stand for the user's values.
  public var next: [String]
  /// The numbers in `cause` as named values, if it has any.
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
  /// Two numbers that should be equal.
  static func numbers(_ kind: String, _ expected: UInt64, found: UInt64) -> FaultFields {
    var fields = FaultFields(kind)
    fields.expected = .number(expected)
    fields.found = .number(found)
    return fields
  }

  /// A metadata block.
  static func block(_ kind: String, _ block: MetadataBlock) -> FaultFields {
    var fields = FaultFields(kind)
    fields.block = block
    return fields
  }
}
