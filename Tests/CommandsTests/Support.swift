import Glibc
import Testing

@testable import Commands

/// A console whose output and error output are kept in memory files.
final class CapturedConsole {
  let console: Console
  private let outputFile = anonymousFile()
  private let errorFile = anonymousFile()

  init(showsProgress: Bool = false, clock: @escaping () -> UInt64 = monotonicNanoseconds) {
    console = Console(
      output: outputFile, error: errorFile, showsProgress: showsProgress, clock: clock)
  }

  deinit {
    close(outputFile)
    close(errorFile)
  }

  var output: String { contents(outputFile) }
  var errors: String { contents(errorFile) }

  private func contents(_ fd: Int32) -> String {
    let size = Int(lseek(fd, 0, SEEK_END))
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      count = max(0, pread(fd, buffer.baseAddress, size, 0))
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// A file or folder name that does not exist yet, as mkstemp(3) and mkdtemp(3) fill it in.
func filled(_ fill: (UnsafeMutablePointer<CChar>) -> Int32) -> (result: Int32, path: String) {
  var template = Array("/tmp/dmthin-test-XXXXXX".utf8CString)
  return template.withUnsafeMutableBufferPointer { buffer in
    guard let base = buffer.baseAddress else { return (-1, "") }
    let result = fill(base)
    return (result, String(cString: base))
  }
}

/// An open file that nobody else can open.
func anonymousFile() -> Int32 {
  let (fd, path) = filled { mkstemp($0) }
  unlink(path)
  return fd
}

/// Runs a command line in this process.
func runCommand(_ arguments: String...) -> (status: Int32, output: String, errors: String) {
  runCommand(arguments)
}

func runCommand(_ arguments: [String]) -> (status: Int32, output: String, errors: String) {
  let captured = CapturedConsole()
  let status = runMain(arguments: arguments, console: captured.console)
  return (status, captured.output, captured.errors)
}

/// A file that is removed at the end of the test.
final class ScratchFile {
  let path: String

  init(_ bytes: [UInt8] = [], size: Int? = nil) throws {
    let fd: Int32
    (fd, path) = filled { mkstemp($0) }
    try #require(fd >= 0)
    try #require(write(fd, bytes, bytes.count) == bytes.count)
    if let size { try #require(ftruncate(fd, off_t(size)) == 0) }
    close(fd)
  }

  convenience init(text: String, size: Int? = nil) throws {
    try self.init(Array(text.utf8), size: size)
  }

  deinit { unlink(path) }
}

/// Every command of the registry.
let allSpecs = Dispatcher.metadataCommands.map { $0.spec }

/// A command as a test's argument, which shows its name alone.
struct NamedSpec: Sendable, CustomTestStringConvertible {
  let spec: CommandSpec
  var testDescription: String { spec.fieldName }

  static let all = allSpecs.map { NamedSpec(spec: $0) }
  /// Those of groups too.
  static let everything = all + Dispatcher.poolCommands.map { NamedSpec(spec: $0.spec) }
}
