import BlockIO
import PoolManager
import ThinFormat
import ThinTools

/// The messages of `thin_repair` about its result.
struct RepairText {
  private let request: RepairRequest
  private let result: RepairResult
  private var report: RepairReport { result.report }
  private var blockBytes: UInt64 {
    UInt64(report.dataBlockSectors) * UInt64(Limits.sectorBytes)
  }

  init(_ request: RepairRequest, _ result: RepairResult) {
    self.request = request
    self.result = result
  }

  /// For users: incomplete devices, then totals, then what to do next.
  var lines: [String] {
    var lines: [String] = []
    for device in report.devices where !device.isWhole || !device.ranges.isEmpty {
      let expected = device.expected.map { "\(device.saved) of \($0)" } ?? "\(device.saved)"
      lines.append(
        "thin device \(device.id): \(expected) mappings saved"
          + (device.hasNewDetails ? ", with new details" : ""))
      lines += device.ranges.map { "  \($0.kind.rawValue): \(text($0))" }
      if device.unsaidRanges > 0 { lines.append("  and \(device.unsaidRanges) more ranges") }
    }
    for device in report.leftOut {
      let name = device.id.map { "thin device \($0)" } ?? "a device whose id is not known"
      let root = device.root.map { " (block \($0))" } ?? ""
      lines.append("\(name)\(root): left out, with \(device.mapped) mappings that can be read")
    }
    switch report.snapshot {
    case .none: break
    case .kept: lines.append("The metadata snapshot is kept.")
    case .dropped: lines.append("The metadata snapshot is dropped: it is not complete.")
    }
    let mappings = report.devices.reduce(0) { $0 &+ $1.saved }
    let verb = request.output == nil ? "Can save" : "Saved"
    let parts = report.devices.count { !$0.isWhole }
    lines.append(
      "\(verb) \(report.devices.count) thin devices with \(mappings) mappings"
        + (parts == 0
          ? "; all of them are complete." : "; \(parts) of them are incomplete or doubtful."))
    return lines + next
  }

  private func text(_ range: RepairReport.Range) -> String {
    let block = "(metadata block \(range.block))"
    let begin = range.begin.rawValue
    guard let end = range.end?.rawValue, end > begin else {
      return "from virtual block \(begin), byte \(bytes(begin)), to the end \(block)"
    }
    return
      "virtual blocks \(begin)..\(end - 1), bytes \(bytes(begin))..\(bytes(end) - 1), "
      + "\(end - begin) blocks, \(bytes(end - begin)) bytes \(block)"
  }

  /// The bytes of this many data blocks; the largest number on overflow.
  private func bytes(_ blocks: UInt64) -> UInt64 {
    let (bytes, overflow) = blocks.multipliedReportingOverflow(by: blockBytes)
    return overflow ? .max : bytes
  }

  /// What to do with the result.
  private var next: [String] {
    var lines: [String] = []
    if !report.isWhole {
      lines.append(
        "Keep \(request.input) as it is; check the content of the devices named above, read-only, "
          + "before they are used.")
    }
    guard let output = request.output else { return lines }
    // lvm2 calls thin_repair with its spare volume and installs the result itself.
    if LVMRecords.name(ofPath: output)?.hasSuffix("_pmspare") == true { return lines }
    guard let pool = LVMRecords.volume(ofPath: request.input) else {
      return lines + [
        "next: thin_check \(shellQuoted(output)), then give it to the pool as metadata."
      ]
    }
    let group = String(pool.prefix { $0 != "/" })
    let volume: String
    if let known = LVMRecords.volume(ofPath: output) {
      volume = known
    } else {
      volume = "\(pool)_repaired"
      let size = result.outputBlocks * UInt64(Limits.blockBytes)
      lines += [
        "next: lvcreate -y -Zn -n \(volume.dropFirst(group.count + 1)) -L \(size)b \(group)",
        "next: dd if=\(shellQuoted(output)) of=/dev/\(volume) bs=1M conv=fsync",
      ]
    }
    return lines + [
      "next: lvchange -an \(volume); lvconvert -y --thinpool \(pool) --poolmetadata \(volume)",
      "Then \(volume) holds the old metadata; the same command swaps it back.",
    ]
  }

  /// One JSON object.
  func writeJSON(to sink: ByteSink) throws(BlockIOError) {
    var json = JSONWriter(sink)
    try json.beginObject()
    try json.member("written", request.output != nil)
    try json.member("whole", report.isWhole)
    try json.member("transaction_id", result.transactionID)
    try json.member("data_block_sectors", UInt64(report.dataBlockSectors))
    try json.member("needed_blocks", result.neededBlocks)
    try json.member("output_blocks", result.outputBlocks)
    try json.member("metadata_snapshot", report.snapshot.rawValue)
    try json.key("devices")
    try json.beginArray()
    for device in report.devices { try write(device, &json) }
    try json.endArray()
    try json.member("left_out", report.leftOut)
    try json.key("unclear")
    try json.beginArray()
    for part in report.unclear {
      try json.beginObject()
      try json.member("root", part.block)
      try json.member("begin", part.begin)
      try json.member("end", part.end)
      try json.member("mapped_blocks", part.mapped)
      try json.key("dev_ids")
      try json.beginArray()
      for id in part.ids { try json.value(id.rawValue) }
      try json.endArray()
      try json.endObject()
    }
    try json.endArray()
    try json.member("notes", report.notes)
    try json.endObject()
    try json.finish()
  }

  private func write(_ device: RepairReport.Device, _ json: inout JSONWriter) throws(BlockIOError) {
    try json.beginObject()
    try json.member("device", device.id)
    try json.member("whole", device.isWhole)
    try json.member("saved_blocks", device.saved)
    try json.member("mapped_blocks", device.expected)
    try json.member("new_details", device.hasNewDetails)
    try json.key("ranges")
    try json.beginArray()
    for range in device.ranges {
      try json.beginObject()
      try json.member("kind", range.kind.rawValue)
      try json.member("begin", range.begin)
      try json.member("end", range.end)
      try json.member("begin_byte", bytes(range.begin.rawValue))
      try json.member("end_byte", range.end.map { bytes($0.rawValue) })
      try json.member("metadata_block", range.block)
      try json.endObject()
    }
    try json.endArray()
    try json.member("more_ranges", UInt64(device.unsaidRanges))
    try json.endObject()
  }
}

extension JSONWriter {
  /// Devices that a repair, or a rescue, leaves out.
  mutating func member(_ name: String, _ devices: [RepairReport.LeftOut]) throws(BlockIOError) {
    try key(name)
    try beginArray()
    for device in devices {
      try beginObject()
      try member("device", device.id)
      try member("root", device.root)
      try member("mapped_blocks", device.mapped)
      try endObject()
    }
    try endArray()
  }

  /// Sentences.
  mutating func member(_ name: String, _ lines: [String]) throws(BlockIOError) {
    try key(name)
    try beginArray()
    for line in lines { try value(line) }
    try endArray()
  }
}
