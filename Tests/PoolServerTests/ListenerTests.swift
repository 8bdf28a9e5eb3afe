import BlockServer
import Glibc
import TestSupport
import Testing

@Suite("Listeners")
struct ListenerTests {
  @Test("A listener that was closed leaves alone who has its descriptor by then")
  func closedOnce() throws {
    let folder = try ScratchFolder()
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
}
