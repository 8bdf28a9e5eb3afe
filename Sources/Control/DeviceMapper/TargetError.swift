/// The refusal of a table line by a target's constructor or a table check, in the kernel's words.
public struct TargetError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The text in the kernel's log, like `Invalid block size`.
  public let message: String
  /// The error number returned to the caller of the load.
  public let code: Int32
  /// Lines for users: the reason, the place, and what to do.
  public let explanation: [String]

  /// A refusal, by default with EINVAL.
  public init(_ message: String, code: Int32 = 22, explanation: [String] = []) {
    self.message = message
    self.code = code
    self.explanation = explanation
  }

  /// The text.
  public var description: String { message }
}

/// The way a device of a target is opened.
public enum DeviceAccess: Hashable, Sendable {
  case read, readWrite
  /// With the access of the table.
  case table
  /// Read by this table, and perhaps written by a later table that shares the descriptor: opened
  /// for writing if possible, otherwise for reading.
  case readBeforeWrite
}

/// A constructor's request to open a device named in a line.
public struct DeviceRequest<Role: Hashable & Sendable>: Hashable, Sendable {
  /// The text in the line: a path, or `major:minor`.
  public let text: String
  /// The device's role for the target.
  public let role: Role
  /// The requested access.
  public let access: DeviceAccess

  /// A request.
  public init(_ text: String, _ role: Role, _ access: DeviceAccess = .table) {
    self.text = text
    self.role = role
    self.access = access
  }
}

/// The failure to open a device, with its error number. The constructor adds its own message.
public struct DeviceOpenError: Error, Hashable, Sendable {
  /// The error number.
  public let code: Int32
  /// Lines for users: the device or file, and the reason.
  public let explanation: [String]
  /// An error.
  public init(code: Int32, explanation: [String] = []) {
    self.code = code
    self.explanation = explanation
  }
}

/// Opens a device for a constructor. Parsers call it at the moment at which the kernel opens the
/// device, so that they find the same fault first. To only parse a line, pass nil.
public typealias DeviceOpener<Role: Hashable & Sendable> =
  (DeviceRequest<Role>) throws(DeviceOpenError) -> Void

extension DeviceRequest {
  /// Opens the device. An error keeps its number and gets the constructor's message.
  package func open(by opener: DeviceOpener<Role>?, orSay message: String) throws(TargetError) {
    guard let opener else { return }
    do throws(DeviceOpenError) {
      try opener(self)
    } catch {
      throw TargetError(message, code: error.code, explanation: error.explanation)
    }
  }
}
