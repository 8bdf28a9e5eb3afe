// nbd-file SOCKET DISK... : serves files, devices and other disks, for tests and benchmarks of the
// server alone. Options before the socket: --tcp ADDRESS:PORT, --read-only, --psk FILE, --cert FILE
// --key FILE [--ca FILE], --require-tls.
import BlockIO
import BlockServer
import CDMThin
import DataPath
import EventLoop
import Glibc

@main
struct FileServer {
  struct Options {
    var tcp: String?
    var isReadOnly = false
    var requiresTLS = false
    var values: [String: String] = [:]
    var operands: [String] = []

    init(_ arguments: [String]) {
      var rest = arguments[...]
      while let argument = rest.popFirst() {
        switch argument {
        case "--read-only": isReadOnly = true
        case "--require-tls": requiresTLS = true
        case "--tcp": tcp = rest.popFirst()
        case "--psk", "--cert", "--key", "--ca": values[argument] = rest.popFirst()
        default: operands.append(argument)
        }
      }
    }

    func security() throws -> Security {
      let mode: Security.Mode = requiresTLS ? .require : .allow
      if let path = values["--psk"] { return Security(mode, try TLSCredentials(sharedKeys: path)) }
      guard let certificate = values["--cert"], let key = values["--key"] else { return .plain }
      return Security(
        mode,
        try TLSCredentials(certificate: certificate, key: key, clientAuthority: values["--ca"]))
    }
  }

  static func main() {
    dmthin_begin_program()
    do {
      try serve()
    } catch {
      print("nbd-file: \(error)")
      exit(1)
    }
  }

  private static func serve() throws {
    let options = Options(Array(CommandLine.arguments.dropFirst()))
    guard options.operands.count >= 2 else {
      print("usage: nbd-file [OPTION...] SOCKET FILE...")
      exit(2)
    }
    let loop = try EventLoop()
    let queue = try IOQueue(loop)
    let workers = try Workers(loop)
    let context = DiskContext(loop, queue, workers)
    let exports = ExportList()
    for path in options.operands.dropFirst() {
      let disk = try DiskResolver.open(path, readOnly: options.isReadOnly, in: context)
      let name = path.split(separator: "/").last.map(String.init) ?? path
      exports.add(Export(name: name, summary: "the file \(path)", destination: disk))
    }
    let server = BlockServer(loop, exports: exports, security: try options.security())
    try server.add(try Listener.unix(path: options.operands[0]))
    if let tcp = options.tcp {
      for listener in try Listener.tcp(tcp) {
        print("listening on \(listener.name)")
        try server.add(listener)
      }
    }
    let signals = try SignalSource([SIGTERM, SIGINT], loop) { server.stop { loop.stop() } }
    print("serving")
    fflush(nil)
    loop.run()
    signals.close()
    workers.close()
    queue.close()
  }
}
