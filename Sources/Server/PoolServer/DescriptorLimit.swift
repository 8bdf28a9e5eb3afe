import BlockIO
import Glibc

/// The system's limit of open descriptors; every connection takes one.
enum DescriptorLimit {
  /// Descriptors reserved for other uses than NBD connections: clients of the control socket and of
  /// the metrics, and devices that commands open. With few descriptors, fewer are reserved.
  private static let reserve = (most: 128, least: 16)

  /// The number of connections that fit, by NBD and to the control socket.
  struct Room {
    var connections: Int
    var control: Int
  }

  /// Raises the limit as far as `connections` need it and the process may (getrlimit(2)). Sessions
  /// and services start with 1,024.
  static func makeRoom(forConnections connections: Int) -> Room {
    var limit = rlimit()
    let open = Folder.names(in: "/proc/self/fd").count
    guard unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else {
      return room(of: .max, open: open, connections)
    }
    let wanted = rlim_t(open + connections + reserve.most)
    if limit.rlim_cur < wanted {
      var raised = limit
      raised.rlim_cur = min(wanted, limit.rlim_max)
      if unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &raised) == 0 {
        limit = raised
      }
    }
    return room(of: Int(clamping: limit.rlim_cur), open: open, connections)
  }

  /// The room with this many descriptors, some of them open.
  static func room(of descriptors: Int, open: Int, _ connections: Int) -> Room {
    let free = max(0, descriptors - open)
    let kept = min(reserve.most, max(reserve.least, free / 3))
    return Room(connections: min(connections, max(0, free - kept)), control: max(4, kept / 2))
  }
}
