import Glibc

/// Finds the folder for records of pools that are kept across reboots.
public enum StateFolder {
  /// The folder in the environment's `variable`; by default /var/lib/dmthin/NAME for root, and for
  /// other users `dmthin/NAME` in `XDG_STATE_HOME`, or in `~/.local/state`. Nil if none of these is
  /// known.
  public static func usual(_ name: String, variable: String) -> String? {
    func value(_ variable: String) -> String? {
      unsafe getenv(variable).map { unsafe String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }
    if let folder = value(variable) { return folder }
    if geteuid() == 0 { return "/var/lib/dmthin/\(name)" }
    if let state = value("XDG_STATE_HOME") { return "\(state)/dmthin/\(name)" }
    return value("HOME").map { "\($0)/.local/state/dmthin/\(name)" }
  }
}
