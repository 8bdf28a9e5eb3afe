import CDMThin
import Glibc
import TestSupport
import Testing

@testable import EventLoop

@Suite("Listeners")
struct ListenerTests {
  private let folder: ScratchFolder
  init() throws { folder = try ScratchFolder() }

  @Test("A closed listener does not touch a new file with its old descriptor")
  func closedOnce() throws {
    var listener: Listener? = try Listener.unix(path: folder.file("s"))
    let number = listener?.descriptor
    listener?.close()
    // The system gives the lowest free number, unless another thread was quicker.
    let next = open("/dev/null", O_RDONLY | O_CLOEXEC)
    defer { close(next) }
    listener = nil
    #expect(fcntl(next, F_GETFD) >= 0, "descriptor \(next) after \(number ?? -1)")
    #expect(access(folder.file("s"), F_OK) != 0)
  }

  @Test("A socket without a listener is replaced; anything else, or another user's, stays")
  func stale() throws {
    let path = folder.file("s")
    let listener = try Listener.unix(path: path)
    func expectInUse(_ words: String) {
      let error = #expect(throws: SystemError.self) { try Listener.unix(path: path) }
      #expect(error?.code == EADDRINUSE && error?.description.contains(words) == true, "\(words)")
      #expect(access(path, F_OK) == 0 || errno == ENOENT && words.contains("no socket"))
      unlink(path)
    }
    expectInUse("another server listens")
    listener.close()
    let left = dmthin_stream_socket(AF_UNIX)
    try #require(dmthin_bind_unix(left, path) == 0)
    close(left)
    try Listener.unix(path: path).close()
    #expect(access(path, F_OK) != 0)
    try #require(symlink(folder.file("elsewhere"), path) == 0)
    expectInUse("no socket")
    try #require(mkfifo(path, 0o600) == 0)
    expectInUse("no socket")
    guard geteuid() == 0 else { return }
    let other = dmthin_stream_socket(AF_UNIX)
    try #require(dmthin_bind_unix(other, path) == 0 && chown(path, 65534, 65534) == 0)
    close(other)
    expectInUse("socket of user 65534")
  }

  @Test(
    "Without a descriptor or memory for a client a door rests, and lets the client in afterwards",
    arguments: [EMFILE, ENFILE, ENOBUFS, ENOMEM])
  func exhausted(_ code: Int32) throws {
    let loop = try EventLoop()
    var clients: [Int32] = []
    let door = try AcceptingDoor(try Listener.unix(path: folder.file("s")), loop) {
      clients.append($0)
    }
    let client = dmthin_stream_socket(AF_UNIX)
    defer {
      door.close()
      for descriptor in clients + [client] { close(descriptor) }
    }
    try #require(dmthin_connect_unix(client, folder.file("s")) == 0)
    let accept = door.accept
    var attempts = 0
    door.accept = { _ in
      attempts += 1
      errno = code
      return -1
    }
    var isOver = false
    let end = LoopTimer { isOver = true }
    loop.set(end, after: 250_000_000)
    loop.run(within: 600_000_000_000, until: { isOver })
    #expect((1...3).contains(attempts))
    #expect(loop.passes < 50)
    door.accept = accept
    isOver = false
    loop.set(end, after: 10_000_000_000)
    loop.run(within: 600_000_000_000, until: { isOver || !clients.isEmpty })
    #expect(clients.count == 1)
  }
}
