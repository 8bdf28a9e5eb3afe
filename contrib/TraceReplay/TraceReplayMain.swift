import Glibc
import Simulation

/// Replays a trace and prints a line for every dump: label, blocks, SHA-256 of the image with the
/// bytes that the kernel leaves undefined set to zero. Every image is as long as the largest that
/// the trace asks for, zeros at the end.
@main
enum TraceReplayMain {
  static func main() {
    guard CommandLine.arguments.count == 2 else { fail("usage: trace-replay FILE.ops[.gz]", 2) }
    let path = CommandLine.arguments[1]
    var at = 0
    do {
      let lines = try TraceReplayer.lines(ofTrace: path)
      let blocks = TraceReplayer.blocksMax(lines)
      let replayer = TraceReplayer()
      for line in lines {
        at += 1
        try replayer.run(line) { label, device in
          print("\(label) \(blocks) \(try imageDigest(device, blocks: blocks))")
        }
      }
    } catch {
      fail("\(path):\(at): \(error)", 1)
    }
  }

  private static func fail(_ message: String, _ status: Int32) -> Never {
    let line = message + "\n"
    _ = write(2, line, line.utf8.count)
    exit(status)
  }
}
