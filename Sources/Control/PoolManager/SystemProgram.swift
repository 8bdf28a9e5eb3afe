import CDMThin
import Glibc

/// Runs a program of the system, like lvs or modprobe.
///
/// It has a time limit, because the program may wait for a suspended device.
public enum SystemProgram {
  /// The bytes of output to keep.
  private static let outputMax = 4096

  /// Runs a program and waits for its end.
  /// - Parameters:
  ///   - arguments: its absolute path, or a name to search in PATH, followed by its arguments.
  ///   - milliseconds: the time limit, after which it is killed.
  /// - Returns: the first 4 KiB of its standard output; nil if it cannot be started, ends with
  ///   another status than 0, or exceeds the limit.
  public static func output(of arguments: [String], within milliseconds: Int) -> String? {
    let deadline = now() + milliseconds
    var ends: [Int32] = [0, 0]
    guard unsafe dmthin_pipe(&ends) == 0 else { return nil }
    defer { close(ends[0]) }
    let child = start(arguments, output: ends[1])
    close(ends[1])
    guard let child else { return nil }
    let bytes = read(ends[0], until: deadline)
    guard bytes != nil, let status = status(of: child, until: deadline) else {
      kill(child, SIGKILL)
      // A process that hangs in the kernel ends later; init reaps it once this program has ended.
      _ = Self.status(of: child, until: now() + 500)
      return nil
    }
    return status == 0 ? bytes.map { String(decoding: $0, as: UTF8.self) } : nil
  }

  /// The monotonic clock, in milliseconds.
  private static func now() -> Int { Int(dmthin_monotonic_nanoseconds() / 1_000_000) }

  private static func start(_ arguments: [String], output: Int32) -> pid_t? {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    unsafe posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    unsafe posix_spawn_file_actions_adddup2(&actions, output, 1)
    unsafe posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    _ = unsafe dmthin_spawn_close_from(&actions, 3)
    var words = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { unsafe words.forEach { word in unsafe free(word) } }
    var child: pid_t = 0
    let code = unsafe posix_spawnp(&child, arguments[0], &actions, nil, &words, environ)
    return code == 0 ? child : nil
  }

  /// Reads until the other end is closed; nil after the deadline. Bytes beyond `outputMax` are
  /// read, so that the program does not wait, and dropped.
  private static func read(_ descriptor: Int32, until deadline: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1024)
    while true {
      let left = deadline - now()
      guard left > 0 else { return nil }
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      guard unsafe poll(&entry, 1, Int32(clamping: left)) > 0 else { continue }
      let count = unsafe Glibc.read(descriptor, &chunk, chunk.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return bytes }
      bytes += chunk[..<min(count, outputMax - bytes.count)]
    }
  }

  /// The status of a child that ends before the deadline; nil otherwise.
  private static func status(of child: pid_t, until deadline: Int) -> Int32? {
    var status: Int32 = 0
    while unsafe waitpid(child, &status, WNOHANG) != child {
      guard now() < deadline else { return nil }
      usleep(2000)
    }
    return status
  }
}
