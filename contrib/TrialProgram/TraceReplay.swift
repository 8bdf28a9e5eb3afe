import BlockIO
import Glibc
import Simulation
import ThinFormat

/// Replays traces of pool operations.
enum TraceReplay: Trials {
  static let name = "replay"
  static let usage = "[--images PREFIX | --onto DEVICE] [--cache N] FILE.ops[.gz]"
  static let summary = """
    Replays a trace of pool operations, and prints a line for every dump: label, blocks, SHA-256.
    --images compares every dump with the file PREFIX.LABEL instead; --onto works on a device or
    file instead of memory. With --cache N the engine keeps N blocks between operations instead
    of all that it needs. The bytes that the kernel leaves undefined count as zero. For digests
    every image is as long as the largest that the trace asks for, zeros at the end.
    """

  static func run(_ words: [String]) -> Bool {
    var images: String?
    var onto: String?
    var cache = 8192
    var files: [String] = []
    var arguments = words[...]
    while let argument = arguments.popFirst() {
      switch argument {
      case "--images": images = arguments.popFirst()
      case "--onto": onto = arguments.popFirst()
      case "--cache": cache = arguments.popFirst().flatMap { Int($0) } ?? cache
      default: files.append(argument)
      }
    }
    guard files.count == 1, let path = files.first else { refuse() }
    let lines: [Substring]
    do { lines = try TraceReplayer.lines(ofTrace: path) } catch { fail("\(error)", 1) }
    if let onto {
      do {
        let device = try FileDevice(path: onto, access: .readWrite, exclusive: true)
        replay(path, lines, TraceReplayer(onto: device, cacheBlocksMax: cache)) { _, _, _ in }
      } catch { fail("\(error)", 1) }
    } else if let images {
      replay(path, lines, TraceReplayer(cacheBlocksMax: cache)) { line, label, device in
        compare(device, "\(images).\(label)", where: "\(path):\(line): dump \(label)")
      }
    } else {
      let blocks = TraceReplayer.blocksMax(lines)
      replay(path, lines, TraceReplayer(cacheBlocksMax: cache)) { line, label, device in
        do {
          print("\(label) \(blocks) \(try imageDigest(device, blocks: blocks))")
        } catch { fail("\(path):\(line): \(error)", 1) }
      }
    }
    return true
  }

  private static func replay(
    _ path: String, _ lines: [Substring], _ replayer: TraceReplayer,
    dump: (Int, Substring, MemoryDevice) -> Void
  ) {
    for (i, line) in lines.enumerated() {
      do {
        try replayer.run(line) { label, device in dump(i + 1, label, device) }
      } catch {
        fail("\(path):\(i + 1): '\(line)': \(error)", 1)
      }
    }
  }

  private static func fail(_ message: String, _ status: Int32) -> Never {
    fflush(nil)
    let line = message + "\n"
    _ = write(2, line, line.utf8.count)
    exit(status)
  }

  /// The bytes of a block that have a meaning, or are at least deterministic.
  private static func certain(_ device: MemoryDevice, _ block: UInt64) -> [UInt8] {
    var bytes = Array(device.peek(block))
    if block == 0 {
      for range in [0..<4, 96..<192, 224..<320] {
        for i in range { bytes[i] = 0 }
      }
    }
    return bytes
  }

  /// Ends the program at the first difference, and leaves the engine's image beside the other.
  private static func compare(_ ours: MemoryDevice, _ path: String, where place: String) {
    let theirs: MemoryDevice
    do { theirs = try MemoryDevice(contentsOf: path) } catch { fail("\(place): \(error)", 1) }
    let size = Int(ours.byteCount) / Limits.blockBytes
    let different = (0..<UInt64(min(size, Int(theirs.byteCount) / Limits.blockBytes))).filter {
      if let a = ours.peek($0).baseAddress, let b = theirs.peek($0).baseAddress,
        memcmp(a, b, Limits.blockBytes) == 0
      {
        return false
      }
      return certain(ours, $0) != certain(theirs, $0)
    }
    if different.isEmpty && ours.byteCount == theirs.byteCount {
      print("\(place): \(size) blocks are equal")
      return
    }
    print("\(place): \(different.count) of \(size) blocks differ")
    if ours.byteCount != theirs.byteCount {
      print("  the other image has \(theirs.byteCount) bytes, ours \(ours.byteCount)")
    }
    if let block = different.first {
      let a = certain(ours, block)
      let b = certain(theirs, block)
      // The block's own checksum follows from the rest.
      let at = (4..<a.count).first { a[$0] != b[$0] } ?? 0
      print("  first: block \(block), byte \(at): \(a[at]), expected \(b[at])")
      print("  ours: \(kind(ours, block)); theirs: \(kind(theirs, block))")
    }
    if let file = fopen(path + ".ours", "w") {
      for block in 0..<UInt64(size) {
        let bytes = ours.peek(block)
        if bytes.allSatisfy({ $0 == 0 }) {
          fseek(file, Limits.blockBytes, SEEK_CUR)
        } else {
          fwrite(bytes.baseAddress, 1, bytes.count, file)
        }
      }
      ftruncate(fileno(file), off_t(size * Limits.blockBytes))
      fclose(file)
    }
    exit(1)
  }

  private static func kind(_ device: MemoryDevice, _ block: UInt64) -> String {
    do {
      if let role = try BlockCatalogue(device).roles[block] { return "\(role)" }
      return device.peek(block).allSatisfy { $0 == 0 } ? "never written" : "not in use"
    } catch {
      return "of a pool that cannot be read (\(error))"
    }
  }
}
