import CDMThin
import Glibc
import Simulation

/// Writes traces of pool operations into a folder:
///
///     trace-generate [--kind small|wrapping|large|devices|deep] SEED COUNT FOLDER
///     trace-generate --turns SEED COUNT FOLDER
///     trace-generate --salvage SEED COUNT FOLDER
///
/// Trace N of COUNT is made from SEED + N - 1 alone and becomes FOLDER/SEED.ops. With --turns it is
/// the life of one pool, in COUNT pieces FOLDER/0001.ops and so on. With --salvage it is damaged
/// metadata, FOLDER/SEED.damaged, and a line for each that describes the damage.
@main
enum TraceGenerateMain {
  static func main() throws {
    dmthin_begin_program()
    var kind: TraceGenerator.Kind?
    var turns = false
    var salvage = false
    var words: [String] = []
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      switch argument {
      case "--turns": turns = true
      case "--salvage": salvage = true
      case "--kind":
        kind = arguments.popFirst().flatMap { TraceGenerator.Kind(rawValue: $0) }
        if kind == nil { usage() }
      default: words.append(argument)
      }
    }
    guard words.count == 3, let seed = UInt64(words[0]), let count = Int(words[1]), count > 0 else {
      usage()
    }
    if salvage {
      for n in seed..<(seed + UInt64(count)) {
        let trial = try SalvageTrial(seed: n)
        print("\(n) \(trial.damage)")
        write(trial.bytes, "\(words[2])/\(n).damaged")
      }
    } else if turns {
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
    print("usage: trace-generate [--kind KIND | --turns | --salvage] SEED COUNT FOLDER")
    exit(2)
  }

  private static func write(_ bytes: [UInt8], _ path: String) {
    let file = created(path)
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
  }

  private static func write(_ lines: [String], _ path: String) {
    let file = created(path)
    fputs(lines.joined(separator: "\n") + "\n", file)
    fclose(file)
  }

  private static func created(_ path: String) -> UnsafeMutablePointer<FILE> {
    guard let file = fopen(path, "w") else {
      print("cannot write \(path): \(String(cString: strerror(errno)))")
      exit(1)
    }
    return file
  }
}
