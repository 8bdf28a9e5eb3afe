import BlockIO
import CDMThin
import Glibc
import Testing
import ThinTools

@testable import Commands

@Suite struct ConsoleTests {
  @Test("a command whose reader goes away ends quietly and successfully")
  func brokenPipe() throws {
    var ends: [Int32] = [0, 0]
    try #require(dmthin_pipe(&ends) == 0)
    close(ends[0])
    let errors = dmthin_memory_file("errors")
    defer {
      close(ends[1])
      close(errors)
    }
    let console = Console(output: ends[1], error: errors)
    #expect(runMain(arguments: ["thin_check", "--help"], console: console) == 64)
    #expect(lseek(errors, 0, SEEK_END) == 0)
  }

  @Test("if the reader goes away in the middle, no error is printed, and the status reports it")
  func brokenPipeThrown() {
    let captured = CapturedConsole()
    let console = captured.console
    let error = BlockIOError(.write, path: console.output.path, code: EPIPE)
    #expect(console.status(for: error) == .damaged)
    #expect(console.status(for: ToolError(error)) == .damaged)
    #expect(captured.errors.isEmpty)
    #expect(console.status(for: BlockIOError(.read, path: "x", code: EPIPE)) == .inputOutput)
  }

  @Test("a failure is reported even if the reader has gone away")
  func brokenPipeAfterFailure() throws {
    var ends: [Int32] = [0, 0]
    try #require(dmthin_pipe(&ends) == 0)
    close(ends[0])
    defer { close(ends[1]) }
    signal(SIGPIPE, SIG_IGN)
    let console = Console(output: ends[1], error: ends[1])
    try console.output.write("something")
    #expect(console.finish(64) == 64)
  }

  @Test("a full output is an error")
  func fullOutput() throws {
    let full = open("/dev/full", O_WRONLY | O_CLOEXEC)
    try #require(full >= 0)
    let errors = dmthin_memory_file("errors")
    defer {
      close(full)
      close(errors)
    }
    let console = Console(output: full, error: errors)
    #expect(runMain(arguments: ["thin_ls", "--help"], console: console) == 74)
    #expect(lseek(errors, 0, SEEK_END) > 0)
  }

  @Test("quiet silences everything but usage errors")
  func quiet() {
    let silent = runCommand("thin_check", "-q", "/no/such/file")
    #expect(silent.status == 66 && silent.output.isEmpty && silent.errors.isEmpty)
    let loud = runCommand("thin_check", "-q", "--foo")
    #expect(loud.status == 2 && loud.errors.contains("unexpected argument '--foo' found"))
  }

  @Test("errors and warnings are labelled")
  func messages() {
    let captured = CapturedConsole()
    captured.console.warning("w")
    #expect(captured.console.status(for: ToolError(.inUse, "b")) == .busy)
    #expect(captured.errors == "warning: w\nerror: b\n")
  }

  @Test("progress appears after two seconds, with percent, rate and time left, and is erased")
  func progress() {
    nonisolated(unsafe) var now: UInt64 = 5_000_000_000
    let captured = CapturedConsole(showsProgress: true, clock: { now })
    let progress = captured.console.makeProgress()
    progress.begin("Reading", total: 1000)
    for _ in 0..<10 {
      now += 100_000_000
      progress.advance(by: 10)
    }
    #expect(captured.errors.isEmpty)
    for _ in 0..<10 {
      now += 150_000_000
      progress.advance(by: 10)
    }
    let drawn = captured.errors
    #expect(drawn.contains("Reading  "))
    #expect(drawn.contains(" %  "))
    #expect(drawn.contains("/s  ETA 0:"))
    #expect(!drawn.hasSuffix("\r\u{1b}[K"))
    #expect(captured.console.finish(0) == 0)
    #expect(captured.errors == drawn + "\r\u{1b}[K")
  }

  @Test("without a terminal there is no progress")
  func noProgress() {
    nonisolated(unsafe) var now: UInt64 = 0
    let captured = CapturedConsole(showsProgress: false, clock: { now })
    let progress = captured.console.makeProgress()
    progress.begin("Reading", total: 10)
    now = 60_000_000_000
    progress.advance(by: 5)
    #expect(captured.errors.isEmpty)
  }

  @Test("the time left is estimated from the rate of the phase")
  func timeLeft() {
    let meter = ProgressMeter(start: 0)
    let second: UInt64 = 1_000_000_000
    #expect(meter.line("A", done: 0, total: 100, now: 0) == nil)
    #expect(meter.line("A", done: 10, total: 100, now: 10 * second) == "A  10 %  1/s  ETA 1:30")
    #expect(meter.line("A", done: 11, total: 100, now: 10 * second + 1) == nil)
    #expect(meter.line("B", done: 0, total: 0, now: 20 * second) == "B  0")
    #expect(meter.line("B", done: 50, total: 0, now: 25 * second) == "B  50  10/s")
    #expect(
      meter.line("B", done: 50, total: .max, now: 30 * second) == "B  0 %  5/s  ETA 99:59:59")
  }
}

@Suite struct JSONWriterTests {
  private func written(_ body: (inout JSONWriter) throws -> Void) throws -> String {
    let captured = CapturedConsole()
    var json = JSONWriter(captured.console.output)
    try body(&json)
    try json.finish()
    _ = captured.console.finish(0)
    return captured.output
  }

  @Test("objects and arrays nest, with commas between elements only")
  func nesting() throws {
    let text = try written { json in
      try json.beginObject()
      try json.member("a", 1)
      try json.key("b")
      try json.beginArray()
      try json.beginObject()
      try json.endObject()
      try json.value(2)
      try json.beginArray()
      try json.endArray()
      try json.value("x")
      try json.endArray()
      try json.member("c", true)
      try json.member("d", nil as UInt64?)
      try json.member("e", UInt64.max)
      try json.endObject()
    }
    #expect(text == #"{"a":1,"b":[{},2,[],"x"],"c":true,"d":null,"e":18446744073709551615}"# + "\n")
  }

  @Test("strings are escaped as JSON requires")
  func escapes() throws {
    let text = try written { try $0.value("a\"b\\c\n\t\r\0\u{1f}\u{7f}é/😀") }
    #expect(text == #""a\"b\\c\n\t\u000d\u0000\u001f\u007fé/😀""# + "\n")
  }
}
