import Glibc

/// A system call that failed, by name.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The call.
  public let call: String
  /// The error number.
  public let code: Int32
  /// What is to be said instead of the call and the system's words, where more is known.
  public let sentence: String?
  /// A failure.
  public init(_ call: String, _ code: Int32, sentence: String? = nil) {
    self.call = call
    self.code = code
    self.sentence = sentence
  }
  /// The sentence, or the call and the system's words.
  public var description: String {
    unsafe sentence ?? "\(call): \(String(cString: strerror(code)))"
  }
}
