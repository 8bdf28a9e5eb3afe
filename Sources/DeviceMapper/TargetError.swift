/// What a target's constructor or a check of a table has against a line, in the kernel's words.
public struct TargetError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The text that the kernel's log would have, like `Invalid block size`.
  public let message: String
  /// The error number that the caller of the load gets.
  public let code: Int32
  /// Lines for people: what stands behind the number, where, and what to do.
  public let explanation: [String]

  /// A refusal, with EINVAL where no other number is given.
  public init(_ message: String, code: Int32 = 22, explanation: [String] = []) {
    self.message = message
    self.code = code
    self.explanation = explanation
  }

  /// The text.
  public var description: String { message }
}

/// How a device below a target is opened.
public enum DeviceAccess: Hashable, Sendable {
  case read, readWrite
  /// As the table is loaded.
  case table
  /// Read by this table, and perhaps written by a later one that shares what is open: for writing
  /// where that is possible, for reading where it is not.
  case readBeforeWrite
}

/// How a constructor wants to open a device that a line names.
public struct DeviceRequest<Role: Hashable & Sendable>: Hashable, Sendable {
  /// As written: a path, or `major:minor`.
  public let text: String
  /// What it is to the target.
  public let role: Role
  /// What for.
  public let access: DeviceAccess

  /// A request.
  public init(_ text: String, _ role: Role, _ access: DeviceAccess = .table) {
    self.text = text
    self.role = role
    self.access = access
  }
}

/// A device that could not be opened, by its error number. The constructor adds its own words.
public struct DeviceOpenError: Error, Hashable, Sendable {
  /// The error number.
  public let code: Int32
  /// Lines for people: which device or file it is, and what stands in the way.
  public let explanation: [String]
  /// An error.
  public init(code: Int32, explanation: [String] = []) {
    self.code = code
    self.explanation = explanation
  }
}

/// Opens a device for a constructor. Parsers call it at the moment at which the kernel opens the
/// device, so that the first fault found is the kernel's; those who only want to know what a line
/// says leave it out.
public typealias DeviceOpener<Role: Hashable & Sendable> =
  (DeviceRequest<Role>) throws(DeviceOpenError) -> Void

extension DeviceRequest {
  /// Opens; a failure gets the constructor's words and keeps its number.
  package func open(by opener: DeviceOpener<Role>?, orSay message: String) throws(TargetError) {
    guard let opener else { return }
    do throws(DeviceOpenError) {
      try opener(self)
    } catch {
      throw TargetError(message, code: error.code, explanation: error.explanation)
    }
  }
}
