import BlockIO
import ThinFormat
import ThinTools

/// The messages of `dmthin extract`.
struct ExtractText {
  private let request: ExtractRequest
  private let index: RescueIndex
  /// Ranges that are printed of a device.
  private static let rangesMax = 100

  init(_ request: ExtractRequest, _ index: RescueIndex) {
    self.request = request
    self.index = index
  }

  /// What the salvage has to say of the devices asked for.
  var notes: [String] {
    index.report.notes.filter { note in
      guard let id = request.id, note.hasPrefix("thin device ") else { return true }
      return note.hasPrefix("thin device \(id):")
    }
  }

  /// Devices that the pool had, of which nothing is left; only if all are asked for.
  var lost: [RepairReport.LeftOut] {
    // One that was deleted is no loss: its details are not there.
    request.id == nil ? index.report.leftOut.filter { $0.root == nil } : []
  }

  /// What to know before a device is copied.
  func before(_ job: ExtractJob) -> [String] {
    guard let last = job.device.lost.last, last.upperBound.rawValue == .max else { return [] }
    let byte = last.lowerBound.rawValue.multiplied(by: index.blockBytes)
    return [
      "thin device \(job.device.id): what was mapped from byte \(byte) on is lost, and it is unknown how far "
        + "the device reached"
    ]
  }

  /// The result for a device.
  func after(_ job: ExtractJob) -> [String] {
    let there = job.map.bytes(.finished)
    return [
      "thin device \(job.device.id): \(job.path ?? ""), \(job.plan.byteCount) bytes, "
        + (job.isWhole
          ? "complete"
          : "\(job.plan.byteCount - there) of them lost"
            + (job.device.doubtful.isEmpty ? "" : ", some doubtful"))
        + "; \(job.copiedBytes) bytes copied"
    ] + ranges(job)
  }

  /// What would be copied of a device.
  func planned(_ job: ExtractJob) -> [String] {
    [
      "thin device \(job.device.id): \(job.plan.byteCount) bytes, \(job.plan.mappedBytes) of them to copy, "
        + (request.origin == nil
          ? "" : "\(job.plan.originBytes) to copy from the external origin, ")
        + "\(job.lostBytes) lost"
    ] + ranges(job)
  }

  private func ranges(_ job: ExtractJob) -> [String] {
    let all = parts(job)
    return all.prefix(Self.rangesMax).map { kind, range in
      "  \(kind): bytes \(range.lowerBound)..\(range.upperBound - 1), "
        + "\(range.upperBound - range.lowerBound) bytes"
    } + (all.count > Self.rangesMax ? ["  and \(all.count - Self.rangesMax) more ranges"] : [])
  }

  /// Ranges of which there is something to say, in order.
  private func parts(_ job: ExtractJob) -> [(kind: String, range: Range<UInt64>)] {
    var parts: [(kind: String, range: Range<UInt64>)] = job.plan.lost.map {
      ($0.kind == .lost ? "lost" : "beyond", $0.offset..<$0.end)
    }
    parts += job.unreadable.map { ("unreadable", $0) }
    for range in job.device.doubtful.map(\.rawValues) {
      let begin = range.lowerBound.multiplied(by: index.blockBytes)
      let end = min(job.plan.byteCount, range.upperBound.multiplied(by: index.blockBytes))
      if begin < end { parts.append(("doubtful", begin..<end)) }
    }
    return parts.sorted { $0.range.lowerBound < $1.range.lowerBound }
  }

  /// Totals, and what to do next.
  func end(_ jobs: [ExtractJob]) -> [String] {
    var lines = lost.map { left in
      (left.id.map { "thin device \($0)" } ?? "a device whose id is not known")
        + ": nothing can be read, its mapping tree is lost"
    }
    if request.isDry {
      let bytes = jobs.reduce(0) { $0 &+ $1.plan.mappedBytes &+ $1.plan.originBytes }
      lines.append("\(jobs.count) thin devices, \(bytes) bytes to copy. Nothing was written.")
      return lines
    }
    for job in jobs { lines += commands(job).map { "next: \($0)" } }
    return lines
  }

  private func commands(_ job: ExtractJob) -> [String] {
    guard let path = job.path else { return [] }
    return MountAdvice.commands(image: path, isBlockDevice: job.isBlockDevice)
  }

  /// One JSON object.
  func writeJSON(_ jobs: [ExtractJob], to sink: ByteSink) throws(BlockIOError) {
    var json = JSONWriter(sink)
    try json.beginObject()
    try json.member("written", !request.isDry)
    try json.member("whole", lost.isEmpty && jobs.allSatisfy(\.isWhole))
    try json.member("transaction_id", index.transactionID)
    try json.member("data_block_sectors", index.blockBytes / UInt64(Limits.sectorBytes))
    try json.key("devices")
    try json.beginArray()
    for job in jobs { try write(job, &json) }
    try json.endArray()
    try json.member("left_out", index.report.leftOut)
    try json.member("notes", notes)
    try json.endObject()
    try json.finish()
  }

  private func write(_ job: ExtractJob, _ json: inout JSONWriter) throws(BlockIOError) {
    try json.beginObject()
    try json.member("device", job.device.id)
    if let path = job.path {
      try json.member("file", path)
      try json.member("map", job.mapPath)
    }
    try json.member("whole", job.isWhole)
    try json.member("bytes", job.plan.byteCount)
    try json.member("mapped_bytes", job.plan.mappedBytes)
    if request.origin != nil { try json.member("origin_bytes", job.plan.originBytes) }
    try json.member("copied_bytes", job.copiedBytes)
    try json.member("lost_bytes", job.plan.lostBytes)
    try json.member("beyond_bytes", job.plan.beyondBytes)
    try json.member("unreadable_bytes", job.unreadableBytes)
    let parts = parts(job)
    try json.key("ranges")
    try json.beginArray()
    for (kind, range) in parts {
      try json.beginObject()
      try json.member("kind", kind)
      try json.member("begin_byte", range.lowerBound)
      try json.member("end_byte", range.upperBound)
      try json.endObject()
    }
    try json.endArray()
    try json.key("next")
    try json.beginArray()
    for command in commands(job) { try json.value(command) }
    try json.endArray()
    try json.endObject()
  }
}
