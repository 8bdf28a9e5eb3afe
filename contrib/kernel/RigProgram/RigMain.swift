import CDMThin
import Glibc

/// What scripts in the rig need and a process for each would make slow: starting one takes 20 to 70 ms there.
///
///     rig traces DIR                                every DIR/NAME.ops, by the kernel (KernelPlayer.swift)
///     rig turn DEVICE TRACE                         one trace without meta, growboth and dump, on a device
///     rig messages POOL                             < lines, each one message
///     rig pattern ID BLOCKBYTES FIRST COUNT         > the contents of those blocks
///     rig write PATH BLOCKBYTES BYTES               < lines "ID FIRST COUNT STEP [BASE]"
///     rig discard PATH BLOCKBYTES                   < lines "FIRST COUNT"
///     rig extents                                   < XML of thin_dump
///     rig digest PATH BYTES STEP                    < lines "LABEL OFFSET LENGTH"
///     rig salvaged-play PATH POOL BLOCKS SEED MODEL < lines "ID" (SalvageWrites.swift)
///     rig salvaged-verify PATH BLOCKS MODEL         < lines "ID"
///     rig spoil-leaf FILE                           damages a leaf of a mapping tree
///
/// contrib/kernel/programs builds it, linked fully static.
@main
enum RigMain {
  static func main() {
    dmthin_begin_program()
    let words = Array(CommandLine.arguments.dropFirst())
    do {
      try run(words.first ?? "", Array(words.dropFirst()))
    } catch {
      flushOutput()
      let line = "rig: \(error)\n"
      _ = Glibc.write(2, line, line.utf8.count)
      exit(1)
    }
    flushOutput()
  }

  private static func run(_ verb: String, _ words: [String]) throws {
    let arguments = Arguments(verb: verb, words: words)
    switch verb {
    case "traces": try playTraces(in: try arguments.text(0, of: 1))
    case "turn": try playTurn(on: try arguments.text(0, of: 2), trace: try arguments.text(1, of: 2))
    case "messages": try sendMessages(to: try arguments.text(0, of: 1))
    case "pattern":
      printPattern(
        device: try arguments.number(0, of: 4), blockBytes: Int(try arguments.number(1, of: 4)),
        first: try arguments.number(2, of: 4), count: try arguments.number(3, of: 4))
    case "write":
      try writeScattered(
        try arguments.text(0, of: 3), blockBytes: Int(try arguments.number(1, of: 3)),
        bytes: Int(try arguments.number(2, of: 3)))
    case "discard":
      try discardRanges(try arguments.text(0, of: 2), blockBytes: try arguments.number(1, of: 2))
    case "extents": try printExtents()
    case "digest":
      try printDigests(
        try arguments.text(0, of: 3), bytes: Int(try arguments.number(1, of: 3)),
        step: Int(try arguments.number(2, of: 3)))
    case "salvaged-play":
      try SalvageWrites(
        path: try arguments.text(0, of: 5), blocks: Int(try arguments.number(2, of: 5))
      ).play(
        pool: try arguments.text(1, of: 5), seed: try arguments.number(3, of: 5),
        model: try arguments.text(4, of: 5))
    case "salvaged-verify":
      try SalvageWrites(
        path: try arguments.text(0, of: 3), blocks: Int(try arguments.number(1, of: 3))
      ).verify(model: try arguments.text(2, of: 3))
    case "spoil-leaf": try spoilLeaf(of: try arguments.text(0, of: 1))
    default: throw RigError("there is no '\(verb)'; RigMain.swift says what there is")
    }
  }
}

/// What went wrong.
struct RigError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
  /// With the reason that the system gives.
  static func system(_ what: String) -> RigError {
    RigError("\(what): \(String(cString: strerror(errno)))")
  }
}

/// The words after the verb.
struct Arguments {
  let verb: String
  let words: [String]

  func text(_ index: Int, of count: Int) throws -> String {
    guard words.count == count else { throw RigError("\(verb) takes \(count) arguments") }
    return words[index]
  }

  func number(_ index: Int, of count: Int) throws -> UInt64 {
    let word = try text(index, of: count)
    guard let number = UInt64(word) else { throw RigError("\(verb): '\(word)' is no number") }
    return number
  }
}

/// Numbers of a line of input.
func numbers(_ line: String) throws -> [UInt64] {
  try line.split(separator: " ").map {
    guard let number = UInt64($0) else { throw RigError("'\(line)': '\($0)' is no number") }
    return number
  }
}

/// Seconds by a clock that only goes forward.
func now() -> Double { Double(dmthin_monotonic_nanoseconds()) / 1e9 }

// Written by the one thread there is.
nonisolated(unsafe) private var output: [UInt8] = []

/// Prints; what is printed comes in large pieces.
func put(_ bytes: some Sequence<UInt8>) {
  output.append(contentsOf: bytes)
  if output.count >= 1 << 20 { flushOutput() }
}

func flushOutput() {
  var at = 0
  while at < output.count {
    let count = output.withUnsafeBytes {
      write(1, UnsafeRawBufferPointer(rebasing: $0[at...]).baseAddress, $0.count - at)
    }
    guard count > 0 else { exit(1) }
    at += count
  }
  output = []
}
