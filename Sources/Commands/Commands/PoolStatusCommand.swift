import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import ThinFormat
import ThinTools

/// `dmthin pool status`.
enum PoolStatusCommand: Command {
  /// A pool with everything to print about it.
  private struct Report {
    var site: PoolSite
    var pool: LivePool
    var status: ThinPoolStatus
    var lease: Lease?
    var thins: [(thin: ActiveThin, status: ThinStatus?)]
  }

  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let sites = PoolSites(arguments, console)
    let names = arguments.positionals.map { PoolPlace.mappedName($0) }
    var pools: [(site: PoolSite, pool: LivePool)] = []
    for name in names {
      let site = try sites.site(of: name)
      site.manager.recover()
      pools.append((site, try site.manager.pool(name)))
    }
    for site in names.isEmpty ? try sites.all() : [] {
      site.manager.recover()
      pools += try site.manager.pools().map { (site, $0) }
    }
    let reports = try pools.map { site, pool in
      Report(
        site: site, pool: pool,
        status: try site.manager.status(pool, flushes: !arguments.has("no-flush")),
        lease: site.manager.knownLease(pool), thins: try site.manager.thinStatuses(pool))
    }
    if arguments.has("json") {
      try writeJSON(reports, console)
    } else {
      if reports.isEmpty { console.note("no pool is active") }
      for report in reports { try write(report, console) }
    }
    return ExitStatus.ok.rawValue
  }

  // MARK: - For people

  private static func write(_ report: Report, _ console: Console) throws(BlockIOError) {
    let (pool, target) = (report.pool, report.pool.target)
    let block = target.blockSectors * UInt64(Limits.sectorBytes)
    try console.line(
      "\(pool.name) (\(pool.number)): \(mode(report.status))"
        + (pool.info.isSuspended ? ", suspended" : ""))
    if let server = report.site.server {
      try console.line("  served       control socket \(server.control)")
    }
    if case .working(let details) = report.status {
      try console.line("  data         \(usage(details.data, block)), in blocks of \(size(block))")
      try console.line(
        "  metadata     \(usage(details.metadata, UInt64(Limits.blockBytes)))")
      try console.line("  transaction  \(details.transactionID)")
      let zeroing =
        target.features.contains(.skipBlockZeroing) ? "new blocks not zeroed" : "new blocks zeroed"
      let full = details.noSpace == .queue ? "writes wait when full" : "writes fail when full"
      let discards =
        switch details.discards {
        case .ignored: "discards ignored"
        case .passedDown: "discards passed down"
        case .notPassedDown: "discards only unmap"
        }
      try console.line(
        "  behaviour    \(zeroing), \(discards), \(full), event at \(target.lowWaterBlocks) free blocks"
      )
      if let root = details.heldRoot {
        let owner = report.lease.map { " of '\($0.owner)'" } ?? ""
        try console.line("  snapshot     metadata snapshot\(owner) at block \(root)")
      }
    }
    for (thin, status) in report.thins {
      var text = "  thin \(thin.id)  \(thin.name), \(size(thin.sectors * 512))"
      if case .working(let mapped, _) = status { text += ", \(size(mapped * 512)) mapped" }
      if status == .failed || status == .error { text += ", failed" }
      if thin.info.isSuspended { text += ", suspended" }
      if let origin = report.site.manager.origin(of: thin) { text += ", reads \(origin)" }
      try console.line(text)
    }
  }

  private static func mode(_ status: ThinPoolStatus) -> String {
    switch status {
    case .failed: return "failed"
    case .error: return "metadata cannot be read"
    case .working(let details):
      let mode =
        switch details.mode {
        case .readWrite: "writable"
        case .readOnly: "read-only"
        case .outOfDataSpace: "out of data space"
        }
      return details.needsCheck ? "\(mode), needs a check" : mode
    }
  }

  private static func usage(_ usage: BlockUsage, _ blockBytes: UInt64) -> String {
    let share = usage.total == 0 ? 0 : Double(usage.used) / Double(usage.total) * 1000
    let tenths = UInt64(min(max(share, 0), 1e9))
    return "\(usage.used) of \(usage.total) blocks, \(tenths / 10).\(tenths % 10) % of "
      + size(usage.total.multipliedReportingOverflow(by: blockBytes).partialValue)
  }

  private static func size(_ bytes: UInt64) -> String { prettySize(bytes: bytes) }

  // MARK: - For programs

  private static func writeJSON(_ reports: [Report], _ console: Console) throws(BlockIOError) {
    var json = JSONWriter(console.output)
    try json.beginObject()
    try json.key("pools")
    try json.beginArray()
    for report in reports {
      try json.beginObject()
      try writePool(report, &json)
      try json.key("thins")
      try json.beginArray()
      for (thin, status) in report.thins {
        try writeThin(thin, status, report.site.manager.origin(of: thin), &json)
      }
      try json.endArray()
      try json.endObject()
    }
    try json.endArray()
    try json.endObject()
    try json.finish()
  }

  private static func writePool(_ report: Report, _ json: inout JSONWriter) throws(BlockIOError) {
    let pool = report.pool
    try json.member("name", pool.name)
    try json.member("uuid", pool.info.uuid)
    try json.member("device", "\(pool.number)")
    try json.member("backend", report.site.backend)
    if let server = report.site.server { try json.member("control", server.control) }
    try json.key("suspended")
    try json.value(pool.info.isSuspended)
    try json.member("event_number", UInt64(pool.info.eventNumber))
    try json.member("mode", report.status.modeName)
    try json.member("metadata_device", pool.target.metadataDevice)
    try json.member("data_device", pool.target.dataDevice)
    try json.member("data_block_sectors", pool.target.blockSectors)
    try json.member("low_water_blocks", pool.target.lowWaterBlocks)
    try json.key("features")
    try json.beginArray()
    for feature in ThinPoolTarget.Feature.allCases where pool.target.features.contains(feature) {
      try json.value(feature.rawValue)
    }
    try json.endArray()
    guard case .working(let details) = report.status else { return }
    try json.member("transaction_id", details.transactionID)
    try json.member("metadata_blocks_used", details.metadata.used)
    try json.member("metadata_blocks", details.metadata.total)
    try json.member("data_blocks_used", details.data.used)
    try json.member("data_blocks", details.data.total)
    try json.member("held_root", details.heldRoot)
    if let lease = report.lease, details.heldRoot != nil {
      try json.member("lease_owner", lease.owner)
      // By the present clock, however it was set at the start of the lease.
      let now = UInt64(max(0, time(nil)))
      try json.member("lease_taken", now - min(now, lease.age()))
    }
    try json.member("discards", details.discards.rawValue)
    try json.member("no_space", details.noSpace.rawValue)
    try json.key("needs_check")
    try json.value(details.needsCheck)
    try json.member("metadata_low_water_blocks", details.metadataLowWater)
  }

  private static func writeThin(
    _ thin: ActiveThin, _ status: ThinStatus?, _ origin: String?, _ json: inout JSONWriter
  ) throws(BlockIOError) {
    try json.beginObject()
    try json.member("name", thin.name)
    try json.member("id", thin.id)
    try json.member("sectors", thin.sectors)
    try json.key("suspended")
    try json.value(thin.info.isSuspended)
    if let origin { try json.member("external_origin", origin) }
    if case .working(let mapped, let highest) = status {
      try json.member("mapped_sectors", mapped)
      try json.member("highest_mapped_sector", highest)
    }
    try json.endObject()
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "status", summary: "show active pools",
    description: [
      "Prints mode, use of data and metadata, and active thin devices of each pool that is named, or "
        + "of all."
    ],
    options: [
      OptionSpec(
        "json",
        help:
          "Print one JSON object: pools, each with numbers in blocks and sectors, and its thins."),
      OptionSpec(
        "no-flush", help: "Do not commit the pool first; the numbers are those of its last commit."),
    ],
    operands: [
      PositionalSpec(
        "POOL", help: "Name of an active pool. Default: all.", isRequired: false, isRepeatable: true
      )
    ],
    examples: [("$ pool", "Show one pool."), ("$ --json", "Show all pools, for a program.")],
    seeAlso: ["dmthin-pool-events", "dmthin-pool-doctor"])
}
