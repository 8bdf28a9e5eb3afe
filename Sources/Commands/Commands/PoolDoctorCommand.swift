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
      if findings.isEmpty { try console.line("no problems found in \(arguments.positionals[0])") }
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

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec(
    name: "pool doctor", fieldName: "dmthin-pool-doctor",
    summary: "find problems of a pool, and print what to do next",
    description: [
      """
      Changes nothing. Looks at an active pool for: its mode and the reason for it, space that \
      runs low and how long it lasts, a metadata snapshot that was left behind, devices left \
      suspended. Looks at a pool that is not active for: metadata that is damaged or needs a \
      check, a wrong device given as metadata, a data device that does not fit. Both: a \
      transaction id that differs from lvm2's, or from the expected one. Each finding comes with \
      the commands to run next.
      """
    ],
    options: [
      OptionSpec(
        "expect-transaction-id", value: .required(placeholder: "NUM", .number),
        help: "The transaction id that the pool should have. Default: lvm2's, for its pools."),
      OptionSpec(
        "sample", value: .required(placeholder: "SECONDS", .number(max: 3600)),
        help:
          "Measure twice, this far apart, and print when the pool will be full. Active pools only."),
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
