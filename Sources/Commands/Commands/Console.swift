public import BlockIO
import CDMThin
public import DeviceMapper
import Glibc
public import ThinTools

/// Where a command writes. Results go to the output, everything else to the error output; a
/// command never writes to a descriptor itself, so that tests run it in their own process.
///
/// Invariant: while `isProgressShown`, the cursor stands at the end of the progress line, and
/// nothing else is written to the error output before that line is erased.
public final class Console {
  /// Results. Flushed by `finish`.
  public let output: ByteSink
  /// Whether to print only the results written with `write`, and usage errors.
  public var isQuiet = false
  /// Makes the backend for device-mapper's commands; nil in programs without device-mapper.
  public var makeDeviceMapper: (() -> any DeviceMapperBackend)?

  /// The path of the program with the command `serve`; nil in programs without a server.
  public var serverProgram: String?

  private let errorDescriptor: Int32
  private let showsProgress: Bool
  private let clock: () -> UInt64
  private var isProgressShown = false

  /// Writes to open descriptors, which the caller closes.
  /// - Parameters:
  ///   - showsProgress: whether to draw progress; nil asks whether `error` is a terminal.
  ///   - clock: monotonic nanoseconds, from any start.
  public init(
    output: Int32 = 1, error: Int32 = 2, showsProgress: Bool? = nil,
    clock: @escaping () -> UInt64 = monotonicNanoseconds
  ) {
    self.output = ByteSink(descriptor: output, path: "standard output")
    errorDescriptor = error
    self.showsProgress = showsProgress ?? (isatty(error) == 1)
    self.clock = clock
  }

  /// Writes a line of the result, unless quiet.
  public func line(_ text: String) throws(BlockIOError) {
    if !isQuiet { try output.write(text + "\n") }
  }

  /// Writes a line for the user to the error output, unless quiet.
  public func note(_ text: String) {
    if !isQuiet { writeError(text + "\n") }
  }

  /// Warns of something that does not stop the command, unless quiet.
  public func warning(_ text: String) { note("warning: \(text)") }

  /// Prints why the command stops, unless quiet.
  public func error(_ text: String) { note("error: \(text)") }

  /// Prints what is wrong with the command line, even if quiet.
  public func usageError(_ error: UsageError, program: String, usage: String) {
    writeError(
      "error: \(error)\n\nUsage: \(program) \(usage)\n\nFor more information, try '--help'.\n")
  }

  /// A progress display, drawn on a terminal once the command has run for two seconds.
  public func makeProgress() -> Progress {
    guard showsProgress && !isQuiet else { return Progress() }
    let meter = ProgressMeter(start: clock())
    return Progress { [unowned self] title, done, total in
      guard let line = meter.line(title, done: done, total: total, now: clock()) else { return }
      eraseProgress()
      writeError(line)
      isProgressShown = true
    }
  }

  /// Prints the error that a command threw and returns its exit status. Prints nothing if the
  /// reader of the output has gone away; the status says that it did not get everything.
  public func status(for error: any Error) -> ExitStatus {
    switch error {
    case let error as ToolError:
      if case .system(let error) = error.cause, error.isReaderGone { return ExitStatus(error) }
      self.error(error.message)
      return ExitStatus(error)
    case let error as BlockIOError:
      return status(for: ToolError(error))
    default:
      self.error("\(error)")
      return .internalError
    }
  }

  /// Ends a command that returned `status`: erases the progress and flushes the output.
  public func finish(_ status: Int32) -> Int32 {
    eraseProgress()
    do throws(BlockIOError) {
      try output.flush()
    } catch {
      let flushed = self.status(for: error)
      return status == 0 ? flushed.rawValue : status
    }
    return status
  }

  private func eraseProgress() {
    guard isProgressShown else { return }
    isProgressShown = false
    writeError("\r\u{1b}[K")
  }

  private func writeError(_ text: String) {
    if isProgressShown { eraseProgress() }
    var text = text
    text.withUTF8 { utf8 in
      var done = 0
      while done < utf8.count {
        let n = unsafe Glibc.write(
          errorDescriptor, utf8.baseAddress.map { unsafe $0 + done }, utf8.count - done)
        if n < 0 && errno == EINTR { continue }
        if n <= 0 { return }
        done += n
      }
    }
  }
}

/// Decides when to draw the progress line, and its text.
final class ProgressMeter {
  static let delay: UInt64 = 2_000_000_000
  static let interval: UInt64 = 200_000_000

  private let start: UInt64
  private var title = ""
  private var phaseStart: UInt64 = 0
  private var last: UInt64 = 0

  init(start: UInt64) { self.start = start }

  /// The line to draw, or nil if it is too early.
  func line(_ title: String, done: UInt64, total: UInt64, now: UInt64) -> String? {
    if title != self.title || done == 0 {
      self.title = title
      phaseStart = now
    }
    guard now - start >= Self.delay, last == 0 || now - last >= Self.interval else { return nil }
    last = now
    let seconds = Double(now - phaseStart) / 1e9
    let rate = seconds > 0 ? Double(done) / seconds : 0
    var line = title
    if total > 0 {
      line += "  \(min(100, UInt64(Double(done) / Double(total) * 100))) %"
    } else {
      line += "  \(done)"
    }
    if rate >= 1 {
      line += "  \(UInt64(rate))/s"
      if total > done { line += "  ETA \(duration(Double(total - done) / rate))" }
    }
    return line
  }

  private func duration(_ seconds: Double) -> String {
    let seconds = UInt64(min(seconds.rounded(.up), 359_999))
    let (minutes, rest) = (seconds / 60, seconds % 60)
    let two = { (value: UInt64) in value < 10 ? "0\(value)" : "\(value)" }
    return minutes < 60
      ? "\(minutes):\(two(rest))" : "\(minutes / 60):\(two(minutes % 60)):\(two(rest))"
  }
}

/// Nanoseconds of the system's monotonic clock.
public func monotonicNanoseconds() -> UInt64 { dmthin_monotonic_nanoseconds() }
