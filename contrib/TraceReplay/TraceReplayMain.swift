import BlockIO
import Glibc
import Simulation
import ThinFormat

/// Replays a trace and prints a line for every dump: label, blocks, SHA-256 of the image with the
/// bytes that the kernel leaves undefined set to zero. Every image is as long as the largest that
/// the trace asks for, zeros at the end.
@main
enum TraceReplayMain {
  static func main() {
    guard CommandLine.arguments.count == 2 else { fail("usage: trace-replay FILE.ops", 2) }
    let path = CommandLine.arguments[1]
    guard let lines = read(path) else {
      fail("cannot read \(path): \(String(cString: strerror(errno)))", 1)
    }
    let blocks = lines.reduce(UInt64(0)) { largest, line in
      let words = line.split(separator: " ")
      guard words.count > 1, words[0] == "meta" || words[0] == "growboth" else { return largest }
      return max(largest, UInt64(words[1]) ?? 0)
    }
    let replayer = TraceReplayer()
    for (i, line) in lines.enumerated() {
      do {
        try replayer.run(line) { label, device in
          print("\(label) \(blocks) \(digest(device, blocks: blocks))")
        }
      } catch {
        fail("\(path):\(i + 1): '\(line)': \(error)", 1)
      }
    }
  }

  private static func fail(_ message: String, _ status: Int32) -> Never {
    print(message)
    exit(status)
  }

  private static func read(_ path: String) -> [Substring]? {
    guard let file = fopen(path, "r") else { return nil }
    defer { fclose(file) }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let n = fread(&chunk, 1, chunk.count, file)
      if n == 0 { break }
      text += chunk[..<n]
    }
    return String(decoding: text, as: UTF8.self).split(separator: "\n")
  }

  /// By the system's sha256sum, which writes to a file because it is read through a pipe.
  private static func digest(_ device: MemoryDevice, blocks: UInt64) -> String {
    let name = "/tmp/trace-replay.\(getpid())"
    defer { unlink(name) }
    guard let sum = popen("sha256sum >\(name)", "w") else { fail("cannot run sha256sum", 1) }
    let present = device.byteCount / UInt64(Limits.blockBytes)
    let zeros = [UInt8](repeating: 0, count: Limits.blockBytes)
    for block in 0..<blocks {
      var bytes = block < present ? Array(device.peek(block)) : zeros
      if block == 0 {
        for range in [0..<4, 96..<192, 224..<320] {
          for i in range { bytes[i] = 0 }
        }
      }
      fwrite(bytes, 1, bytes.count, sum)
    }
    guard pclose(sum) == 0, let line = read(name)?.first else { fail("sha256sum failed", 1) }
    return String(line.prefix(64))
  }
}
