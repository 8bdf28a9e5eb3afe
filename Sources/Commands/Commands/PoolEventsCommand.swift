import BlockIO
import Glibc
import PoolManager
import ThinTools

/// `dmthin pool events`.
enum PoolEventsCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let names = arguments.positionals.map { PoolPlace.mappedName($0) }
    let sites = PoolSites(arguments, console)
    let watch = try watch(sites, names, console)
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
      // Flushed so that the reader gets each event as it happens.
      try console.output.flush()
      // Ends when the watch was interrupted, or when all named pools have gone.
      if events.isEmpty && limit == nil || !arguments.positionals.isEmpty && watch.count == 0 {
        return ExitStatus.ok.rawValue
      }
    }
    return ExitStatus.ok.rawValue
  }

  /// Follows pools wherever they are active: in the kernel and in servers.
  private static func watch(_ sites: PoolSites, _ names: [String], _ console: Console) throws
    -> PoolWatch
  {
    var places: [(site: PoolSite, names: [String])] = []
    if names.isEmpty {
      places = try sites.all().map { ($0, []) }
    } else {
      for name in names {
        let site = try sites.site(of: name)
        let same = places.firstIndex { $0.site.server?.control == site.server?.control }
        if let same { places[same].names.append(name) } else { places.append((site, [name])) }
      }
    }
    for place in places { place.site.manager.recover() }
    return try PoolWatch(places.map { ($0.site.manager, $0.names) })
  }

  private static func print(
    _ pool: String, _ event: PoolEvent, isJSON: Bool, _ console: Console
  ) throws(BlockIOError) {
    var moment = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &moment)
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
    var parts = unsafe tm()
    unsafe gmtime_r(&seconds, &parts)
    let two = { (value: Int32) in value < 10 ? "0\(value)" : "\(value)" }
    return unsafe "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))T"
      + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))Z"
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "events", summary: "report changes of active pools as they happen",
    description: [
      """
      Prints a line when the mode of a pool changes, when space runs low, when a pool needs a \
      check, appears or is removed. Waits for events of the kernel and of the servers that run \
      when it begins, without polling. Ends when all named pools are gone, or when the last server \
      with such a pool has ended.
      """
    ],
    options: [
      OptionSpec("json", help: "Print a JSON object on each line: time, pool, event, text."),
      OptionSpec(
        "count", value: .required(placeholder: "NUM", .number), help: "End after this many lines."),
      OptionSpec(
        "timeout", value: .required(placeholder: "SECONDS", .number),
        help: "End after this time. Default: never."),
    ],
    operands: [
      PositionalSpec(
        "POOL", help: "Name of an active pool. Default: all, also those activated later.",
        isRequired: false, isRepeatable: true)
    ],
    examples: [
      ("$", "Follow all pools."),
      ("$ pool --count 1 --timeout 60", "Wait for one event of a pool, for a minute at most."),
    ],
    seeAlso: ["dmthin-pool-status", "dmthin-pool-doctor"])
}
