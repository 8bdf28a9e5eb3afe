import CDMThin
import Glibc
import Simulation

/// Writes traces of pool operations into a folder:
///
///     trace-generate [--kind small|wrapping|large|devices|deep] SEED COUNT FOLDER
///     trace-generate --turns SEED COUNT FOLDER
///
/// Trace N of COUNT is made from SEED + N - 1 alone and becomes FOLDER/SEED.ops. With --turns it is
/// the life of one pool, in COUNT pieces FOLDER/0001.ops and so on.
@main
enum TraceGenerateMain {
  static func main() throws {
    dmthin_begin_program()
    var kind: TraceGenerator.Kind?
    var turns = false
    var words: [String] = []
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      switch argument {
      case "--turns": turns = true
      case "--kind":
        kind = arguments.popFirst().flatMap { TraceGenerator.Kind(rawValue: $0) }
        if kind == nil { usage() }
      default: words.append(argument)
      }
    }
    guard words.count == 3, let seed = UInt64(words[0]), let count = Int(words[1]), count > 0 else {
      usage()
    }
    if turns {
      let pieces = try TraceGenerator.turns(seed: seed, count: count, metadataBlocks: 2000)
      for (i, lines) in pieces.enumerated() {
        write(lines, "\(words[2])/\(String(10_001 + i).dropFirst()).ops")
      }
    } else {
      for n in seed..<(seed + UInt64(count)) {
        write(try TraceGenerator.trace(seed: n, kind: kind), "\(words[2])/\(n).ops")
      }
    }
  }

  private static func usage() -> Never {
    print("usage: trace-generate [--kind KIND | --turns] SEED COUNT FOLDER")
    exit(2)
  }

  private static func write(_ lines: [String], _ path: String) {
    guard let file = fopen(path, "w") else {
      print("cannot write \(path): \(String(cString: strerror(errno)))")
      exit(1)
    }
    fputs(lines.joined(separator: "\n") + "\n", file)
    fclose(file)
  }
}
