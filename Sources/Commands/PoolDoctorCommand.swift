import BlockIO
import PoolManager
import ThinTools

/// `dmthin pool doctor`.
enum PoolDoctorCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let expected = arguments.number("expect-transaction-id")
    let findings: [Diagnosis]
    switch try PoolPlace(arguments, console: console) {
    case .live(let manager, let pool):
      findings = try manager.diagnose(
        pool, expected: expected, seconds: UInt32(clamping: arguments.number("sample") ?? 0))
    case .offline(let path):
      try InputChecks.requireInput(path)
      var pool = PoolAtRest(path)
      pool.data = arguments.text("data")
      pool.expected = expected
      pool.checksAll = arguments.has("full")
      findings = try pool.diagnose(progress: console.makeProgress())
    }
    if arguments.has("json") {
      try writeJSON(findings, console)
    } else {
      for finding in findings {
        try console.line("\(finding.severity.rawValue): \(finding.cause)")
        for command in finding.next { try console.line("  next: \(command)") }
      }
      if findings.isEmpty { try console.line("nothing is wrong with \(arguments.positionals[0])") }
    }
    if findings.contains(where: { $0.severity == .problem }) { return ExitStatus.damaged.rawValue }
    let isWarned = findings.contains { $0.severity == .warning }
    return (isWarned ? ExitStatus.leaks : ExitStatus.ok).rawValue
  }

  private static func writeJSON(_ findings: [Diagnosis], _ console: Console) throws(BlockIOError) {
    var json = JSONWriter(console.output)
    try json.beginObject()
    try json.key("findings")
    try json.beginArray()
    for finding in findings {
      try json.beginObject()
      try json.member("severity", finding.severity.rawValue)
      try json.member("code", finding.code)
      try json.member("cause", finding.cause)
      if let fault = finding.fault { try json.members(of: fault) }
      try json.key("next")
      try json.beginArray()
      for command in finding.next { try json.value(command) }
      try json.endArray()
      try json.endObject()
    }
    try json.endArray()
    try json.endObject()
    try json.finish()
  }

  /// What the command takes.
  static let spec = CommandSpec(
    name: "pool doctor", fieldName: "dmthin-pool-doctor",
    summary: "tell what is wrong with a pool, and what to do next",
    description: [
      """
      Looks, and changes nothing. Of an active pool: its mode and why it has it, space that runs low \
      and how long it lasts, a metadata snapshot that was left behind, devices left suspended. Of a \
      pool that is not active: metadata that is damaged or needs a check, another device given in its \
      place, a data device that does not fit. Of both: a transaction id that is not the one that lvm2 \
      has, or that is expected. Each finding comes with the commands to run next.
      """
    ],
    options: [
      OptionSpec(
        "expect-transaction-id", value: .required(placeholder: "NUM", .number),
        help: "The transaction id that the pool should have. Default: lvm2 is asked for its pools."),
      OptionSpec(
        "sample", value: .required(placeholder: "SECONDS", .number(max: 3600)),
        help: "Look twice, so long apart, and tell when the pool will be full. Active pools only."),
      OptionSpec(
        "data", value: .required(placeholder: "DEV", .path),
        help: "The data device that goes with the metadata. Pools that are not active only."),
      OptionSpec(
        "full",
        help:
          "Check every mapping, which takes as long as thin_check. Pools that are not active only."),
      OptionSpec(
        "json", help: "Print one JSON object: findings, each with severity, code, cause, next."),
      .poolBackend, .control,
    ],
    positionals: [.pool],
    examples: [
      ("$ pool", "Look at an active pool."),
      (
        "$ /dev/vg/meta --data /dev/vg/data", "Before activation: do these devices belong together?"
      ),
    ],
    exitStatus: [
      (.damaged, "At least one problem was found."),
      (.leaks, "Nothing but warnings."),
    ],
    seeAlso: ["dmthin-pool-status", "thin_check", "dmthin-pool-activate"])
}
