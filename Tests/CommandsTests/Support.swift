import CDMThin
import Glibc
import TestSupport
import Testing

@testable import Commands

/// A console that keeps its output and error output in memory files.
final class CapturedConsole {
  let console: Console
  private let outputFile = dmthin_memory_file("console")
  private let errorFile = dmthin_memory_file("console")

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
  private let folder: ScratchFolder

  init(_ bytes: [UInt8] = [], size: Int? = nil) throws {
    folder = try ScratchFolder()
    path = try folder.file("file", bytes: bytes, size: size.map { UInt64($0) })
  }

  convenience init(text: String, size: Int? = nil) throws {
    try self.init(Array(text.utf8), size: size)
  }
}

/// Every command of the registry.
let allSpecs = Dispatcher.metadataCommands.map { $0.spec }

/// A command as a test's argument, which shows only its name.
struct NamedSpec: Sendable, CustomTestStringConvertible {
  let spec: CommandSpec
  var testDescription: String { spec.fieldName }

  static let all = allSpecs.map { NamedSpec(spec: $0) }
  /// All commands, those of groups too.
  static let everything = all + Dispatcher.poolCommands.map { NamedSpec(spec: $0.spec) }
}
