import EventLoop
import Glibc
import ServerControl
import TestSupport
import Testing

@Suite("Folders of servers")
struct ServerFolderTests {
  private let folder: ScratchFolder
  private var servers: ServerFolder { ServerFolder("\(folder.path)/run") }

  init() throws { folder = try ScratchFolder() }

  @Test("Sockets called control are found, in the folder and one below, and nothing else")
  func controls() throws {
    #expect(try servers.controls() == [])
    for name in ["", "/b", "/a.served", "/c", "/d", "/open"] {
      mkdir(servers.path + name, 0o700)
    }
    let sockets = try ["/control", "/a.served/control", "/b/control", "/c/nbd", "/open/control"]
      .map { try Listener.unix(path: servers.path + $0) }
    mkdir(servers.path + "/d/control", 0o700)
    // Other users could have made this one.
    chmod(servers.path + "/open", 0o777)
    #expect(
      try servers.controls()
        == ["/a.served/control", "/b/control", "/control"].map { servers.path + $0 })
    sockets.forEach { $0.close() }
    #expect(try servers.controls() == [])
  }

  @Test("A folder that others may write to is an error")
  func distrust() throws {
    mkdir(servers.path, 0o700)
    chmod(servers.path, 0o777)
    #expect(throws: (any Error).self) { try servers.controls() }
  }

  @Test("The socket of a pool with any name has a path that is short enough")
  func lengths() {
    let servers = ServerFolder("/run/dmthin")
    #expect(servers.ownFolder(pool: "vms") == "/run/dmthin/vms.served")
    let long = String(repeating: "x", count: 127)
    for name in [long, "..", ".hidden", String(repeating: "é", count: 60)] {
      let path = servers.ownFolder(pool: name)
      #expect(!path.contains(name) && path.utf8.count < 60, "\(path)")
    }
    #expect(servers.ownFolder(pool: long) != servers.ownFolder(pool: long + "y"))
  }
}
