import CDMThin
import DeviceMapper
import Glibc
import TestSupport
import Testing

@testable import ServerControl

private final class Work: Sendable {
  let body: @Sendable () -> Void
  init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

/// Answers every client with the same bytes, once for each line, and hangs up after the last.
private func answering(_ folder: ScratchFolder, _ answers: [String]) throws -> String {
  let path = folder.file("s")
  let listener = socket(
    AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
  try #require(dmthin_bind_unix(listener, path) == 0 && listen(listener, 4) == 0)
  // On its own thread: a task would wait for the thread of the test, which waits for the answer.
  let work = Work {
    let client = dmthin_accept(listener)
    _ = fcntl(client, F_SETFL, 0)
    var byte: UInt8 = 0
    for answer in answers {
      while recv(client, &byte, 1, 0) == 1, byte != 10 {}
      _ = send(client, answer, answer.utf8.count, Int32(truncatingIfNeeded: MSG_NOSIGNAL))
    }
    close(client)
    close(listener)
  }
  var thread = pthread_t()
  let status = pthread_create(
    &thread, nil,
    { argument in
      if let argument { Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body() }
      return nil
    }, Unmanaged.passRetained(work).toOpaque())
  try #require(status == 0)
  pthread_detach(thread)
  return path
}

@Suite("The client of a server that cannot be trusted")
struct UserspaceClientTests {
  private let folder: ScratchFolder
  init() throws { folder = try ScratchFolder() }

  private static let hello = "hello\tversion=2\n"

  private func code(_ body: () throws(DeviceMapperError) -> Void) -> Int32? {
    do throws(DeviceMapperError) {
      try body()
      return nil
    } catch {
      return error.code
    }
  }

  @Test(
    "Malformed answers are errors",
    arguments: [
      "\n", "ok\n", "ok\ta\n", "ok\ta=\n", "ok\tname=x\n", "\\\n", "error\n",
      "error\tcode=many\n", "\u{0}\n", "event\twhat=event\tnumber=1\n", "progress\tdone=1\n",
    ])
  func nonsense(_ answer: String) throws {
    let client = UserspaceClient(path: try answering(folder, [Self.hello, answer]))
    #expect(code { () throws(DeviceMapperError) in _ = try client.info(.name("x"), []) } == EPROTO)
  }

  @Test("A server that disconnects during an answer, or does not run, is an error")
  func gone() throws {
    let client = UserspaceClient(path: try answering(folder, [Self.hello, "ok\tx"]))
    #expect(code { () throws(DeviceMapperError) in try client.clear(.name("x")) } == ECONNRESET)
    #expect(
      code { () throws(DeviceMapperError) in
        try UserspaceClient(path: folder.file("none")).clear(.name("x"))
      } == ENOENT)
    let long = String(repeating: "d", count: 200)
    #expect(
      code { () throws(DeviceMapperError) in
        try UserspaceClient(path: folder.file(long)).clear(.name("x"))
      } == ENAMETOOLONG)
  }

  @Test("A request that is too large is not sent")
  func tooLong() throws {
    let client = UserspaceClient(path: folder.file("none"))
    let text = String(repeating: "x", count: ControlMessage.requestBytesMax)
    #expect(
      code { () throws(DeviceMapperError) in
        _ = try client.message(.name("x"), sector: 0, text)
      } == E2BIG)
  }

  @Test("Errors are those of the server, and a missing device is nil")
  func errors() throws {
    let client = UserspaceClient(
      path: try answering(
        folder,
        [
          Self.hello,
          "error\toperation=remove\tdevice=x (254:0)\tcode=16\tseverity=new\n", "none\n",
        ]))
    do {
      try client.remove(.name("x"), deferred: false, retry: false)
      Issue.record("removed")
    } catch {
      #expect(error == DeviceMapperError(.remove, device: "x (254:0)", code: EBUSY))
    }
    #expect(try client.status(.name("x"), []) == nil)
  }

  @Test("A server of another version, or that hangs up at once, is refused with what to do")
  func otherVersions() throws {
    for (answer, code, words) in [
      ("hello\tversion=3\n", EPROTO, "is not dmthin serve"),
      ("hello\n", EPROTO, "is not dmthin serve"), ("ok\t4.47.0\n", EPROTO, "is not dmthin serve"),
      ("error\tcode=93\tmessage=another version\n", EPROTONOSUPPORT, "another version"),
      ("error\tcode=16\tmessage=64 connections\n", EBUSY, "64 connections"),
      ("", EPROTONOSUPPORT, "use the dmthin that it was started with"),
    ] {
      let scratch = try ScratchFolder()
      let client = UserspaceClient(path: try answering(scratch, [answer]))
      do {
        _ = try client.list()
        Issue.record("taken: \(answer)")
      } catch {
        #expect(error.code == code && "\(error)".contains(words), "\(answer): \(error)")
      }
    }
  }

  @Test("Lines before an answer are processed, and unknown ones are skipped")
  func beside() throws {
    let answer = """
      event\twhat=resumed\tname=z\tnumber=254:0\tevent_number=3
      weather\tsky=blue
      event\twhat=promoted\tname=z
      progress\tid=1\tdevice=z\ttitle=Checking\tdone=5\ttotal=10\tunit=blocks
      ok\tid=1\tdriver=1.2.3\tcodename=x

      """
    let client = UserspaceClient(path: try answering(folder, [Self.hello, answer]))
    var told: [String] = []
    client.progress = { told.append("\($0) \($1)/\($2)") }
    #expect(try client.driverVersion() == "1.2.3")
    #expect(told == ["Checking 5/10"])
    let events = try client.takeEvents()
    #expect(events.count == 1 && events.first?.what == .resumed && events.first?.eventNumber == 3)
  }

  @Test("A server that never answers is given up after a time limit")
  func silent() throws {
    let path = folder.file("s")
    let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(listener) }
    try #require(dmthin_bind_unix(listener, path) == 0 && listen(listener, 4) == 0)
    let client = UserspaceClient(path: path)
    client.channel.patience = 100
    client.channel.probePatience = (50, 80)
    do {
      _ = try client.list()
      Issue.record("an answer came")
    } catch {
      #expect(error.code == ETIMEDOUT)
      #expect("\(error)".contains("has not answered"))
    }
    // Also if it does not read a request larger than the socket's buffer.
    let text = String(repeating: "x", count: ControlMessage.requestBytesMax - 100)
    #expect(
      code { () throws(DeviceMapperError) in
        _ = try client.message(.name("x"), sector: 0, text)
      } == ETIMEDOUT)
  }
}
