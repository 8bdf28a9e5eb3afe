import Glibc

/// Where what is kept of pools from one activation to the next lies, beyond a boot.
public enum StateFolder {
  /// What the environment's `variable` says, for root /var/lib/dmthin/NAME, and for other users `dmthin/NAME`
  /// of `XDG_STATE_HOME`, or of `~/.local/state`. Nil where none of these is known.
  public static func usual(_ name: String, variable: String) -> String? {
    func value(_ variable: String) -> String? {
      getenv(variable).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
    }
    if let folder = value(variable) { return folder }
    if geteuid() == 0 { return "/var/lib/dmthin/\(name)" }
    if let state = value("XDG_STATE_HOME") { return "\(state)/dmthin/\(name)" }
    return value("HOME").map { "\($0)/.local/state/dmthin/\(name)" }
  }
}
