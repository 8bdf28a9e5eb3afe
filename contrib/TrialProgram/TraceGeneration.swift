import Glibc
import Simulation

/// Writes traces of pool operations.
enum TraceGeneration: Trials {
  static let name = "traces"
  static let usage =
    "[--kind small|wrapping|large|devices|deep | --turns | --salvage] SEED COUNT FOLDER"
  static let summary = """
    Writes traces of pool operations. Trace N of COUNT is made from SEED + N - 1 alone and becomes
    FOLDER/SEED.ops. With --turns it is the life of one pool, in COUNT pieces FOLDER/0001.ops and
    so on. With --salvage it is metadata that was damaged, FOLDER/SEED.damaged, and a line for
    each that says how.
    """

  static func run(_ words: [String]) throws -> Bool {
    var kind: TraceGenerator.Kind?
    var turns = false
    var salvage = false
    var operands: [String] = []
    var arguments = words[...]
    while let argument = arguments.popFirst() {
      switch argument {
      case "--turns": turns = true
      case "--salvage": salvage = true
      case "--kind":
        kind = arguments.popFirst().flatMap { TraceGenerator.Kind(rawValue: $0) }
        if kind == nil { refuse() }
      default: operands.append(argument)
      }
    }
    guard operands.count == 3, let seed = UInt64(operands[0]), let count = Int(operands[1]),
      count > 0
    else { refuse() }
    let folder = operands[2]
    if salvage {
      for n in seed..<(seed + UInt64(count)) {
        let trial = try SalvageTrial(seed: n)
        print("\(n) \(trial.damage)")
        write(trial.bytes, "\(folder)/\(n).damaged")
      }
    } else if turns {
      let pieces = try TraceGenerator.turns(seed: seed, count: count, metadataBlocks: 2000)
      for (i, lines) in pieces.enumerated() {
        write(lines, "\(folder)/\(String(10_001 + i).dropFirst()).ops")
      }
    } else {
      for n in seed..<(seed + UInt64(count)) {
        write(try TraceGenerator.trace(seed: n, kind: kind), "\(folder)/\(n).ops")
      }
    }
    return true
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
