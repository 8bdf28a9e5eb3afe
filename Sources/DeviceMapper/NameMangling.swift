/// How device names and uuids with bytes that udev does not allow are stored by the driver: such a
/// byte becomes `\xHH`, in lower case.
public enum NameMangling: String, CaseIterable, Sendable {
  /// As they are.
  case none
  /// Every such byte, backslashes too.
  case hex
  /// Every such byte, unless the name is mangled already.
  case auto
}
