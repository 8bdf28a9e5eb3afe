import CDMThin
import Glibc

/// The exit status of a program and its output.
public struct ProcessResult: Sendable {
  /// Exit status, or 128 and the number of the signal that ended it.
  public var status: Int32
  /// Standard output.
  public var output: [UInt8]
  /// Standard error.
  public var errors: String
  /// The run time.
  public var seconds: Double
  /// The largest resident memory, sampled every millisecond.
  public var peakKiB: Int

  /// Standard output as text.
  public var text: String { String(decoding: output, as: UTF8.self) }
}

/// A program that did not end within its time limit, and was killed.
public struct NoEnd: Error, Equatable, CustomStringConvertible {
  /// Its path and its arguments.
  public let arguments: [String]
  /// The time limit in seconds.
  public let limit: Double

  /// One line for the log.
  public var description: String {
    "'\(arguments.joined(separator: " "))' has not ended after \(limit) seconds"
  }
}

/// Runs a program and waits for its end.
/// - Parameters:
///   - arguments: the program's path and its arguments.
///   - output: a file for standard output, instead of memory; it must exist.
///   - limit: the time limit in seconds, after which the program is killed.
/// - Throws: `MissingRequirement` if it cannot be started, `NoEnd` after the time limit.
public func run(_ arguments: [String], output: String? = nil, limit: Double = 1200) throws
  -> ProcessResult
{
  let outputFile =
    try output.map { path in
      let fd = open(path, O_WRONLY | O_CLOEXEC)
      guard fd >= 0 else { throw MissingRequirement("cannot open \(path)") }
      return fd
    } ?? dmthin_memory_file("output")
  let errorFile = dmthin_memory_file("errors")
  defer {
    close(outputFile)
    close(errorFile)
  }
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  defer { posix_spawn_file_actions_destroy(&actions) }
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
  posix_spawn_file_actions_adddup2(&actions, outputFile, 1)
  posix_spawn_file_actions_adddup2(&actions, errorFile, 2)
  // The child does not get descriptors of tests that run at the same time.
  _ = dmthin_spawn_close_from(&actions, 3)
  var words = arguments.map { strdup($0) }
  words.append(nil)
  defer { for word in words { free(word) } }
  // Default signals, as from a shell, whatever the test runner ignores.
  var attributes = posix_spawnattr_t()
  posix_spawnattr_init(&attributes)
  defer { posix_spawnattr_destroy(&attributes) }
  var defaults = sigset_t()
  sigemptyset(&defaults)
  for number in [SIGPIPE, SIGXFSZ] { sigaddset(&defaults, number) }
  posix_spawnattr_setsigdefault(&attributes, &defaults)
  posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGDEF))

  let start = now()
  var child: pid_t = 0
  let code = posix_spawnp(&child, arguments[0], &actions, &attributes, words, environ)
  guard code == 0 else {
    throw MissingRequirement("cannot run \(arguments[0]): \(String(cString: strerror(code)))")
  }
  var state: Int32 = 0
  var peak = 0
  var pause: UInt32 = 100
  while true {
    peak = max(peak, residentPeakKiB(child))
    let n = waitpid(child, &state, WNOHANG)
    if n == child || (n < 0 && errno != EINTR) { break }
    if now() - start > limit {
      kill(child, SIGKILL)
      waitpid(child, &state, 0)
      throw NoEnd(arguments: arguments, limit: limit)
    }
    usleep(pause)
    pause = min(1000, pause * 2)
  }
  let signal = state & 0x7f
  return ProcessResult(
    status: signal == 0 ? state >> 8 & 0xff : 128 + signal, output: contents(of: outputFile),
    errors: String(decoding: contents(of: errorFile), as: UTF8.self), seconds: now() - start,
    peakKiB: peak)
}

/// Runs a shell command and waits for its end.
public func shell(_ line: String) throws -> ProcessResult { try run(["/bin/bash", "-c", line]) }

// `ru_maxrss` would include the pages of this process, which the child has until it calls exec.
private func residentPeakKiB(_ child: pid_t) -> Int {
  let fd = open("/proc/\(child)/status", O_RDONLY | O_CLOEXEC)
  guard fd >= 0 else { return 0 }
  defer { close(fd) }
  var bytes = [UInt8](repeating: 0, count: 4096)
  let n = read(fd, &bytes, bytes.count)
  guard n > 0 else { return 0 }
  let lines = String(decoding: bytes[..<n], as: UTF8.self).split(separator: "\n")
  // Before exec, the name shows that the child is still this process.
  guard let name = lines.first, !name.contains("xctest"), !name.contains("PackageTest"),
    let line = lines.first(where: { $0.hasPrefix("VmHWM:") })
  else { return 0 }
  return line.split(whereSeparator: { $0 == " " || $0 == "\t" }).compactMap { Int($0) }.first ?? 0
}

private func now() -> Double { Double(dmthin_monotonic_nanoseconds()) / 1e9 }
