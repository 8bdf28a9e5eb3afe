/// A backend that reports events of its devices.
///
/// To miss no event, arm first, then compare the event numbers, and wait if none has changed.
public protocol DeviceEventSource: AnyObject {
  /// From now on every event ends the next wait.
  func armEvents() throws(DeviceMapperError)
  /// Waits for an event since `armEvents`.
  /// - Parameter milliseconds: the time limit; nil waits for ever.
  /// - Returns: false after the time limit.
  /// - Throws: EINTR after a signal.
  func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool
  /// A descriptor that becomes readable on an event after `armEvents`; negative if there is none.
  /// Use it to wait for several sources at a time.
  var eventDescriptor: Int32 { get }
  /// Whether an event is pending that the descriptor does not signal.
  var hasEvents: Bool { get }
}
