import DeviceMapper
import Targets
import TestSupport
import Testing

/// Tests the parsers of `DeviceMapper` with tables that the rig's kernel accepts, refuses and
/// prints.
@Suite(.serialized) struct GrammarTests {
  /// The parsed output of a scenario.
  private struct Transcript {
    /// A table that was loaded, and the result.
    struct Trial {
      var table: [TableLine]
      var isTaken = false
    }
    var trials: [Int: Trial] = [:]
    /// The first message in the log about a refused table.
    var refusals: [Int: Substring] = [:]
    var tables: [(mode: Substring, line: TableLine)] = []
    var statuses: [(mode: Substring, line: TableLine)] = []

    init(_ text: String) throws {
      var mode: Substring = ""
      var trial = 0
      var isLog = false
      for line in text.split(separator: "\n") {
        let (word, rest) = Self.firstWord(line)
        switch word {
        case "log": isLog = true
        case "case" where isLog: trial = Int(rest) ?? 0
        case "device-mapper:" where isLog:
          if rest.hasPrefix("table: "), refusals[trial] == nil {
            refusals[trial] = rest.dropFirst(7)
          }
        case "case":
          let (number, table) = Self.firstWord(rest)
          trial = try #require(Int(number))
          mode = "case \(number)"
          let text = table.split(separator: ",").joined(separator: "\n")
          trials[trial] = Trial(table: try TableText.parse(text))
        case "mode":
          mode = rest
          trial = 0
        case "table":
          trials[trial]?.isTaken = true
          tables += try TableText.parse(String(rest)).map { (mode, $0) }
        case "status": statuses += try TableText.parse(String(rest)).map { (mode, $0) }
        default: break
        }
      }
    }

    private static func firstWord(_ line: Substring) -> (Substring, Substring) {
      let word = line.prefix { $0 != " " }
      return (word, line.dropFirst(word.count + 1))
    }
  }

  private static let errorNames: [Int32: String] = [22: "EINVAL", 19: "ENODEV", 12: "ENOMEM"]

  private typealias Opener = (String) throws(DeviceOpenError) -> Void

  /// Parses a line of any type with a grammar; nil for other types.
  private func understood(_ line: TableLine, _ open: @escaping Opener = { _ in })
    throws(TargetError) -> (any TargetGrammar)?
  {
    switch line.type {
    case SnapshotTarget.type, SnapshotTarget.mergeType:
      try SnapshotTarget(line) { (request) throws(DeviceOpenError) in try open(request.text) }
    case SnapshotOriginTarget.type:
      try SnapshotOriginTarget(line) { (request) throws(DeviceOpenError) in try open(request.text) }
    case CryptTarget.type:
      try CryptTarget(line) { (request) throws(DeviceOpenError) in try open(request.text) }
    default:
      try TargetType.named(line.type)?.parse(line) { (text, _) throws(DeviceOpenError) in
        try open(text)
      }
    }
  }

  private func traits(_ type: String) -> TargetTraits? {
    let others = [
      SnapshotTarget.type, SnapshotTarget.mergeType, SnapshotOriginTarget.type, CryptTarget.type,
    ]
    return others.contains(type) ? [] : TargetType.named(type)?.traits
  }

  /// The refusal of a table by the rules and parsers, in the words of the kernel's log.
  private func refusal(_ table: [TableLine]) -> String? {
    do throws(TargetError) {
      try TableRules.check(table, traits: traits) { line throws(TargetError) in
        do throws(TargetError) {
          _ = try understood(line) { text throws(DeviceOpenError) in
            if text.hasPrefix("/dev/nonexistent") { throw DeviceOpenError(code: 19) }
          }
        } catch {
          throw TargetError("\(line.type): \(error.message)", code: error.code)
        }
      }
      return nil
    } catch {
      // Without a target type, the log has no error number.
      let isTarget = table.contains { error.message.hasPrefix("\($0.type): ") }
      let isUnknown = error.message.hasSuffix("unknown target type")
      let name = Self.errorNames[error.code] ?? "\(error.code)"
      return isTarget && !isUnknown ? "\(error.message) (-\(name))" : error.message
    }
  }

  @Test("tables are accepted and refused as by the kernel, and lines are printed as it prints them")
  func grammar() throws {
    let folder = try ScratchFolder()
    let kernel = "\(Repository.root)/contrib/kernel"
    let meta = try folder.zeros("meta", size: 4 << 20)
    let data = try folder.zeros("data", size: 64 << 20)
    let result = try shell(
      "cd '\(kernel)' && ./run scenarios/grammar.sh '\(meta)' '\(data)' -- tables")
    try #require(result.status == 0, "\(result.text)\(result.errors)")
    let transcript = try Transcript(result.text)

    var compared = 0
    for (number, trial) in transcript.trials.sorted(by: { $0.key < $1.key }) {
      // The log has `254:0: linear: TEXT (-EINVAL)`.
      let said = transcript.refusals[number].map { String($0.drop { $0 != " " }.dropFirst()) }
      let table = trial.table.map { "\($0)" }.joined(separator: ",")
      // Types without a grammar are not checked.
      let isOthers = trial.table.contains { traits($0.type) == nil }
      if isOthers, said?.hasSuffix("unknown target type") != true { continue }
      compared += 1
      #expect(trial.isTaken == (said == nil), "\(table)")
      #expect(refusal(trial.table) == said, "\(table)")
    }
    #expect(compared > 90)

    let modes = Set(transcript.statuses.map(\.mode))
    for mode in ["new", "held", "out-of-data-queue", "read-only", "needs-check", "failed"] {
      #expect(modes.contains(mode[...]))
    }
    for (mode, line) in transcript.tables {
      // The output of a thin device whose pool has failed.
      if line.type == ThinTarget.type, !line.parameters.contains(" ") {
        #expect(ThinStatus(line.parameters)?.parameters == line.parameters, "\(mode): \(line)")
        continue
      }
      guard let target = try understood(line) else { continue }
      #expect(target.parameters == line.parameters, "\(mode): \(line)")
    }
    for (mode, line) in transcript.statuses {
      switch line.type {
      case ThinPoolTarget.type:
        #expect(ThinPoolStatus(line.parameters)?.parameters == line.parameters, "\(mode): \(line)")
      case ThinTarget.type:
        #expect(ThinStatus(line.parameters)?.parameters == line.parameters, "\(mode): \(line)")
      case SnapshotTarget.type, SnapshotTarget.mergeType:
        #expect(SnapshotStatus(line.parameters)?.parameters == line.parameters, "\(mode): \(line)")
      default: break
      }
    }
  }
}
