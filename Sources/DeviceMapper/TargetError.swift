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

/// How a constructor wants to open a device that a line names.
public struct DeviceRequest: Hashable, Sendable {
  /// Read, read and write, or what the table is loaded with.
  public enum Access: Sendable {
    case read, readWrite, table
  }
  /// As written: a path, or `major:minor`.
  public let text: String
  /// What for.
  public let access: Access

  /// A request.
  public init(_ text: String, _ access: Access = .table) {
    self.text = text
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
public typealias DeviceOpener = (DeviceRequest) throws(DeviceOpenError) -> Void

extension DeviceRequest {
  /// Opens; a failure gets the constructor's words and keeps its number.
  func open(by opener: DeviceOpener?, orSay message: String) throws(TargetError) {
    guard let opener else { return }
    do throws(DeviceOpenError) {
      try opener(self)
    } catch {
      throw TargetError(message, code: error.code, explanation: error.explanation)
    }
  }
}
