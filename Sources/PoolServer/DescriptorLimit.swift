import Glibc

/// The system's limit of open descriptors, of which every connection takes one.
enum DescriptorLimit {
  /// Those that are not connections by NBD: devices, listeners, the loop's own, and clients of the
  /// control socket and of the metrics.
  private static let others = 128

  /// Raises the limit as far as `connections` need it and the process may (getrlimit(2)): sessions and
  /// services begin with 1,024. Returns for how many connections there is room, where that is fewer.
  static func makeRoom(forConnections connections: Int) -> Int? {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return nil }
    let wanted = rlim_t(connections + others)
    guard limit.rlim_cur < wanted else { return nil }
    var raised = limit
    raised.rlim_cur = min(wanted, limit.rlim_max)
    if setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) == 0 { limit = raised }
    let room = max(0, Int(clamping: limit.rlim_cur) - others)
    return room < connections ? room : nil
  }
}
