import CDMThin
import Cdevmapper
import Synchronization

/// Collects libdevmapper's messages, which it sends to one function for the whole process.
enum LibraryLog {
  /// A line, with syslog's level: 3 and less for errors, 4 for warnings.
  struct Line: Sendable {
    var level: Int32
    var text: String
  }

  /// The most lines kept between two calls of `take`; a library that prints more is in a loop.
  private static let linesMax = 10_000
  /// The other bits of a level select where the library itself would print the line.
  private static let levelMask: Int32 = 7

  private static let lines = Mutex<[Line]>([])

  /// Redirects the library's log here. May be called more than once.
  static func install() {
    unsafe dmthin_dm_log_to { level, text in
      guard let text = unsafe text else { return }
      let line = unsafe Line(level: level & LibraryLog.levelMask, text: String(cString: text))
      LibraryLog.lines.withLock { if $0.count < LibraryLog.linesMax { $0.append(line) } }
    }
    unsafe dm_log_with_errno_init(dmthin_dm_log_function().map { OpaquePointer($0) })
  }

  /// The messages since the last call.
  static func take() -> [Line] {
    lines.withLock {
      let result = $0
      $0.removeAll(keepingCapacity: true)
      return result
    }
  }
}
