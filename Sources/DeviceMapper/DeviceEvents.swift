/// A backend that tells when anything happened to any of its devices.
///
/// Whoever wants no event to escape arms first, then looks at the event numbers, and waits if none
/// has changed.
public protocol DeviceEventSource: AnyObject {
  /// From now on every event ends the next wait.
  func armEvents() throws(DeviceMapperError)
  /// Waits for an event since `armEvents`.
  /// - Parameter milliseconds: how long at most; nil waits for ever.
  /// - Returns: false when the time was up.
  /// - Throws: with EINTR when a signal came.
  func waitForEvents(milliseconds: Int32?) throws(DeviceMapperError) -> Bool
  /// A descriptor that becomes readable upon an event, once `armEvents` was called; negative where there is
  /// none. It is there to wait for several sources at a time.
  var eventDescriptor: Int32 { get }
  /// Whether an event has come already of which the descriptor says nothing.
  var hasEvents: Bool { get }
}
