import BlockIO
import BlockServer
import DataPath
import EventLoop
import TestSupport
import Testing

// example: disks served to NBD clients on a Unix socket
func serve(_ names: [String], at path: String, _ host: ExampleHost) throws -> BlockServer {
  let exports = ExportList()
  for name in names {
    exports.add(Export(name: name, summary: "the disk \(name)", destination: try host.open(name)))
  }
  let server = BlockServer(host.loop, exports: exports, security: .plain)
  try server.add(try Listener.unix(path: path))
  return server
}
// end

@Suite("Examples of the library BlockServer")
struct BlockServerExample {
  @Test("a server begins, and stops when it is told to")
  func example() throws {
    let folder = try ScratchFolder()
    let host = try ExampleHost()
    defer { host.close() }
    // example: it serves while the loop runs, and ends what its clients have sent before it stops
    let server = try serve(["memory:1m"], at: folder.file("socket"), host)
    let stop = LoopTimer { server.stop { host.loop.stop() } }
    host.loop.set(stop, after: 1_000_000)
    host.loop.run()
    // end
    #expect(FileIdentity(path: folder.file("socket")) == nil)
  }
}
