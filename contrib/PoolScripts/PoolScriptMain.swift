import BlockIO
import CDMThin
import Glibc
import Simulation

// Scripts for thin pools, one operation in a line; NAME is a device's name, the pool's is `pool`:
//
//     devices METABLOCKS DATASECTORS BLOCKSECTORS   first: metadata of zeros, data of a pattern
//     below linear SECTORS, below striped CHUNK     puts a device of several targets under the data
//     below delay MILLISECONDS, below flakey UP     the same: slow writes, failing in so many seconds
//     origin NAME SECTORS                           a device that can be an external origin
//     create SECTORS LOWWATER [FEATURE...]          makes the pool
//     table SECTORS LOWWATER [FEATURE...]           loads another table for it
//     growmeta METABLOCKS                           enlarges the metadata device
//     activate NAME ID SECTORS [ORIGIN]             makes a thin device
//     resize NAME ID SECTORS [ORIGIN]               load, suspend, resume
//     deactivate NAME, remove NAME                  removes a thin device, the pool
//     suspend NAME [noflush], resume NAME
//     message WORD...                               to the pool
//     write NAME SECTOR COUNT TAG                   a pattern made of TAG and the place
//     writefua NAME SECTOR COUNT TAG                the same, durable when it is done
//     read NAME SECTOR COUNT, discard NAME SECTOR COUNT, flush NAME
//     start NAME SECTOR COUNT TAG                   a write that may wait for space
//     pause                                         until the pool has committed by itself
//     finish                                        waits for those
//     status NAME [noflush], gettable NAME, info NAME
//     dump                                          commits; metadata, check, and data of devices
//
// I/O to a suspended device, or outside a device, is skipped.
//
// Scripts that begin with `stacks` are for devices of any targets, described in StackGenerator.swift and
// SnapshotGenerator.swift.

/// Makes and plays such scripts:
///
///     pool-script generate [--stacks|--snapshots] [--lines N] SEED COUNT DIR
///                                   makes DIR/SEED.script, DIR/SEED+1.script, ...
///     pool-script kernel DIR        plays every DIR/N.script with the running kernel; leaves DIR/N.played,
///                                   the operations, and DIR/N.kernel, their results
///     pool-script userspace DIR     plays every DIR/N.played in this process; leaves DIR/N.userspace
///     pool-script turn K kernel|userspace DIR
///                                   plays part K, from 0, of every DIR/N.script, as `cut` divides it, on
///                                   the disks that the part before left in DIR/N.A and DIR/N.B; adds to
///                                   DIR/N.turns
///
/// With --verbose every line is printed before it is played, in the rig into the kernel's log. The
/// devices are files in TMPDIR (default /tmp). A script that cannot be played ends with a line
/// "cannot play: REASON". See contrib/kernel/compare-pools.
@main
enum PoolScriptMain {
  nonisolated(unsafe) private static var isVerbose = false
  nonisolated(unsafe) private static var current = ""

  static func main() {
    dmthin_begin_program()
    signal(SIGALRM) { _ in
      PoolScriptMain.say("pool-script: does not come to an end: \(PoolScriptMain.current)")
      _exit(1)
    }
    var lineCount = 120
    var kind = ""
    var words: [String] = []
    var arguments = CommandLine.arguments.dropFirst()
    while let argument = arguments.popFirst() {
      switch argument {
      case "--lines": lineCount = arguments.popFirst().flatMap { Int($0) } ?? lineCount
      case "--stacks", "--snapshots": kind = argument
      case "--verbose": isVerbose = true
      default: words.append(argument)
      }
    }
    switch (words.first, words.count) {
    case ("generate", 4):
      guard let seed = UInt64(words[1]), let count = UInt64(words[2]) else { usage() }
      for seed in seed..<seed + count {
        write(script(kind, seed, lineCount), to: "\(words[3])/\(seed).script")
      }
    case ("kernel", 2), ("userspace", 2): play(words[0], words[1])
    case ("turn", 4):
      guard let turn = Int(words[1]) else { usage() }
      playTurn(turn, words[2] == "kernel", words[3])
    default: usage()
    }
  }

  private static func script(_ kind: String, _ seed: UInt64, _ lineCount: Int) -> [String] {
    switch kind {
    case "--stacks":
      var generator = StackGenerator(seed: seed)
      return generator.make(lineCount)
    case "--snapshots":
      var generator = SnapshotGenerator(seed: seed)
      return generator.make(lineCount)
    default:
      var generator = ScriptGenerator(seed: seed)
      return generator.make(lineCount)
    }
  }

  private static func usage() -> Never {
    print(
      "usage: pool-script generate [--stacks|--snapshots] [--lines N] SEED COUNT DIR | kernel DIR | "
        + "userspace DIR | turn K kernel|userspace DIR")
    exit(2)
  }

  /// Makes a folder for the devices.
  private static func makeScratch() -> String {
    let base = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    let scratch = "\(base)/pool-script.\(getpid())"
    guard mkdir(scratch, 0o700) == 0 else {
      fail("\(scratch): \(String(cString: strerror(errno)))")
    }
    return scratch
  }

  /// Removes the files in a folder.
  private static func empty(_ folder: String) {
    for file in Folder.names(in: folder) { unlink("\(folder)/\(file)") }
  }

  private static func play(_ kind: String, _ folder: String) {
    let isKernel = kind == "kernel"
    let scratch = makeScratch()
    defer { remove(scratch) }
    for name in scripts(in: folder, isKernel ? ".script" : ".played") {
      guard let lines = readLines("\(folder)/\(name).\(isKernel ? "script" : "played")") else {
        fail("cannot read script \(name)")
      }
      for attempt in 1...20 {
        var (results, played, problem) =
          lines.contains("stacks")
          ? playStacks(name, lines, isKernel, scratch) : play(name, lines, isKernel, scratch)
        if problem == "late" && attempt < 20 { continue }
        if let problem { results.append("cannot play: \(problem)") }
        if isKernel { write(played, to: "\(folder)/\(name).played") }
        write(results, to: "\(folder)/\(name).\(kind)")
        break
      }
    }
  }

  /// Plays one part of every script that has so many; prints how many have.
  private static func playTurn(_ turn: Int, _ isKernel: Bool, _ folder: String) {
    let scratch = makeScratch()
    defer { remove(scratch) }
    var played = 0
    for name in scripts(in: folder, ".script") {
      guard let lines = readLines("\(folder)/\(name).script") else {
        fail("cannot read script \(name)")
      }
      let parts = lines.split(separator: "cut", omittingEmptySubsequences: false).map(Array.init)
      guard turn < parts.count else { continue }
      played += 1
      let files = (a: "\(folder)/\(name).A", b: "\(folder)/\(name).B")
      var results = turn == 0 ? [] : readLines("\(folder)/\(name).turns") ?? []
      do {
        let player = StackPlayer(try makeWorld(isKernel, scratch))
        player.willPlay = { willPlay($0, of: name, isKernel) }
        if turn > 0 {
          player.images = files
          player.undefined = (readLines("\(folder)/\(name).undefined") ?? []).compactMap { line in
            let ends = line.split(separator: " ").compactMap { Int($0) }
            return ends.count == 2 ? ends[0]..<ends[1] : nil
          }
        }
        alarm(60)
        defer { results += player.results }
        try player.play(
          parts[turn], first: turn == 0 ? nil : lines.first { $0.hasPrefix("disks") },
          isEnd: turn == parts.count - 1)
        try copyFile(player.world.metadataPath, to: files.a)
        try copyFile(player.world.dataPath, to: files.b)
        write(
          player.undefined.map { "\($0.lowerBound) \($0.upperBound)" },
          to: "\(folder)/\(name).undefined")
      } catch {
        results.append("cannot play: \(error)")
      }
      write(results, to: "\(folder)/\(name).turns")
      empty(scratch)
    }
    say("\(played) parts")
  }

  private typealias Outcome = (results: [String], played: [String], problem: String?)

  private static func makeWorld(_ isKernel: Bool, _ scratch: String) throws -> any PoolWorld {
    isKernel ? KernelWorld(folder: scratch) : try UserspaceWorld(folder: scratch)
  }

  private static func willPlay(_ line: String, of name: String, _ isKernel: Bool) {
    current = "\(name): \(line)"
    if isVerbose { isKernel ? log(current) : say(current) }
  }

  private static func play(
    _ name: String, _ lines: [String], _ isKernel: Bool, _ scratch: String
  ) -> Outcome {
    defer { empty(scratch) }
    do {
      let player = ScriptPlayer(try makeWorld(isKernel, scratch), addsCommits: isKernel)
      player.willPlay = { willPlay($0, of: name, isKernel) }
      alarm(60)
      do { try player.play(lines) } catch { return (player.results, player.played, "\(error)") }
      return (player.results, player.played, nil)
    } catch {
      return ([], [], "\(error)")
    }
  }

  private static func playStacks(
    _ name: String, _ lines: [String], _ isKernel: Bool, _ scratch: String
  ) -> Outcome {
    defer { empty(scratch) }
    do {
      let player = StackPlayer(try makeWorld(isKernel, scratch))
      player.willPlay = { willPlay($0, of: name, isKernel) }
      alarm(60)
      do { try player.play(lines) } catch { return (player.results, lines, "\(error)") }
      return (player.results, lines, nil)
    } catch {
      return ([], lines, "\(error)")
    }
  }

  /// Writes into the kernel's log, beside the kernel's reasons for refusals.
  private static func log(_ text: String) {
    let fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC)
    guard fd >= 0 else { return }
    defer { close(fd) }
    let line = "script " + text + "\n"
    _ = Glibc.write(fd, line, line.utf8.count)
  }

  /// Ends the process at once, without cleaning up.
  private static func say(_ text: String) {
    let line = text + "\n"
    _ = Glibc.write(1, line, line.utf8.count)
  }

  // MARK: - Files

  private static func fail(_ text: String) -> Never {
    say("pool-script: \(text)")
    exit(1)
  }

  /// Names without their suffix, sorted by their numbers.
  private static func scripts(in folder: String, _ suffix: String) -> [String] {
    Folder.names(in: folder).filter { $0.hasSuffix(suffix) }.map {
      String($0.dropLast(suffix.count))
    }
    .sorted { (UInt64($0) ?? 0, $0) < (UInt64($1) ?? 0, $1) }
  }

  private static func readLines(_ path: String) -> [String]? {
    guard let text = try? WholeFile.bytes(at: path, upTo: 64 << 20) else { return nil }
    return String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
  }

  private static func write(_ lines: [String], to path: String) {
    guard let file = fopen(path, "w") else { fail("cannot write \(path)") }
    for line in lines { fputs(line + "\n", file) }
    guard fclose(file) == 0 else { fail("cannot write \(path)") }
  }
}
