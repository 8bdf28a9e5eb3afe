import BlockIO
import Glibc
import PoolManager
import ThinTools

/// `dmthin pool events`.
enum PoolEventsCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let names = arguments.positionals.map { PoolPlace.mappedName($0) }
    let sites = PoolSites(arguments, console)
    let places = try names.isEmpty ? sites.all() : names.map { try sites.site(of: $0) }
    guard Set(places.map { $0.server?.control }).count == 1, let manager = places.first?.manager
    else {
      throw ToolError(
        .refused,
        "pools are active in more than one place: give --backend kernel, or --control with one of "
          + places.compactMap { $0.server?.control }.joined(separator: ", "))
    }
    manager.recover()
    let watch = try PoolWatch(manager, names)
    let start = monotonicNanoseconds()
    let limit = arguments.number("timeout").map {
      $0 > 1 << 30 ? UInt64(1) << 60 : $0 * 1_000_000_000
    }
    var left = arguments.number("count") ?? .max
    while left > 0 {
      var milliseconds: Int32?
      if let limit {
        let spent = monotonicNanoseconds() - start
        guard spent < limit else { return ExitStatus.ok.rawValue }
        milliseconds = Int32(clamping: (limit - spent) / 1_000_000 + 1)
      }
      let events = try watch.next(milliseconds: milliseconds)
      for (pool, event) in events.prefix(Int(clamping: left)) {
        try print(pool, event, isJSON: arguments.has("json"), console)
        left -= 1
      }
      // Whoever reads this wants each as it comes.
      try console.output.flush()
      // All that were asked for have gone, or somebody wants an end.
      if events.isEmpty && limit == nil || !arguments.positionals.isEmpty && watch.count == 0 {
        return ExitStatus.ok.rawValue
      }
    }
    return ExitStatus.ok.rawValue
  }

  private static func print(
    _ pool: String, _ event: PoolEvent, isJSON: Bool, _ console: Console
  ) throws(BlockIOError) {
    var moment = timespec()
    clock_gettime(CLOCK_REALTIME, &moment)
    let time = utc(moment.tv_sec)
    guard isJSON else {
      return try console.line("\(time) \(pool) \(event.kind.rawValue): \(event.text)")
    }
    var json = JSONWriter(console.output)
    try json.beginObject()
    try json.member("time", time)
    try json.member("pool", pool)
    try json.member("event", event.kind.rawValue)
    try json.member("text", event.text)
    try json.endObject()
    try json.finish()
  }

  /// `2026-01-31T12:00:00Z`.
  private static func utc(_ seconds: Int) -> String {
    var seconds = seconds
    var parts = tm()
    gmtime_r(&seconds, &parts)
    let two = { (value: Int32) in value < 10 ? "0\(value)" : "\(value)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T"
      + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
  }

  /// What the command takes.
  static let spec = CommandSpec.livePoolVerb(
    "events", summary: "tell what becomes of active pools, as it happens",
    description: [
      """
      Prints a line for each change of mode, for space that runs low, for a pool that needs a check, \
      appears or is removed. It waits for the kernel's events and asks nothing meanwhile. It ends when \
      all pools that were named are gone.
      """
    ],
    options: [
      OptionSpec("json", help: "Print a JSON object on each line: time, pool, event, text."),
      OptionSpec(
        "count", value: .required(placeholder: "NUM", .number), help: "End after so many lines."),
      OptionSpec(
        "timeout", value: .required(placeholder: "SECONDS", .number),
        help: "End after this time. Default: never."),
    ],
    operands: [
      PositionalSpec(
        "POOL", help: "Name of an active pool. Default: all, also those that come later.",
        isRequired: false, isRepeatable: true)
    ],
    examples: [
      ("$", "Follow all pools."),
      ("$ pool --count 1 --timeout 60", "Wait for one event of a pool, for a minute at most."),
    ],
    seeAlso: ["dmthin-pool-status", "dmthin-pool-doctor"])
}
