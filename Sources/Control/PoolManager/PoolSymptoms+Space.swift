import DeviceMapper
import ThinFormat
import ThinTools

extension PoolSymptoms {
  /// The percentage from which a device counts as nearly full.
  static var nearlyFullPercent: UInt64 { 80 }

  /// Findings about space while some is left.
  func spaceFindings(_ details: ThinPoolStatus.Details) -> [Diagnosis] {
    var found: [Diagnosis] = []
    let name = shellQuoted(name)
    let (data, metadata) = (details.data, details.metadata)
    if details.mode == .readWrite, data.percent >= Self.nearlyFullPercent {
      let rate = forecast(data) { $0.data }
      found.append(
        Diagnosis(
          .warning, "data-nearly-full",
          "\(data.used) of \(data.total) data blocks are in use (\(data.percent) %)\(rate)",
          next: ["enlarge \(dataPath)", "dmthin pool grow \(name)"]))
    }
    let nearMark = details.metadataLowWater.map { metadata.free <= $0 } ?? false
    if details.mode != .readOnly, metadata.percent >= Self.nearlyFullPercent || nearMark {
      let rate = forecast(metadata) { $0.metadata }
      found.append(
        Diagnosis(
          .warning, "metadata-nearly-full",
          "\(metadata.used) of \(metadata.total) metadata blocks are in use (\(metadata.percent) %)"
            + rate, next: ["enlarge \(metadataPath)", "dmthin pool grow \(name)"]))
    } else if let needed = metadataWhenFull(details), needed > metadata.total {
      found.append(
        Diagnosis(
          .warning, "metadata-too-small",
          "at the present rate the data device needs \(needed) metadata blocks when it is full, and "
            + "there are \(metadata.total)",
          next: ["enlarge \(metadataPath)", "dmthin pool grow \(name)"]))
    }
    let block = max(1, target.blockSectors)
    let dataNow = (dataDeviceSectors ?? 0) / block
    if dataNow > data.total, data.total > 0 {
      found.append(
        Diagnosis(
          .note, "data-grown",
          "the data device has room for \(dataNow) blocks, the pool uses \(data.total)",
          next: ["dmthin pool grow \(name)"]))
    }
    if let blocks = metadataDeviceBlocks, min(blocks, Limits.metadataBlocksMax) > metadata.total,
      metadata.total > 0
    {
      found.append(
        Diagnosis(
          .note, "metadata-grown",
          "the metadata device has \(blocks) blocks, the pool uses \(metadata.total)",
          next: ["dmthin pool grow \(name)"]))
    }
    return found
  }

  /// The metadata blocks in use when all data is, at the present ratio. Nil if too little is mapped
  /// to estimate it.
  func metadataWhenFull(_ details: ThinPoolStatus.Details) -> UInt64? {
    guard details.data.percent >= 10, details.data.used > 0 else { return nil }
    let (product, overflow) = details.metadata.used.multipliedReportingOverflow(
      by: details.data.total)
    return overflow ? nil : product / details.data.used
  }

  /// When a device will be full, estimated from an earlier status.
  private func forecast(
    _ now: BlockUsage, _ usage: (ThinPoolStatus.Details) -> BlockUsage
  ) -> String {
    guard let earlier, case .working(let details) = earlier.status, earlier.seconds > 0 else {
      return ""
    }
    let before = usage(details)
    guard now.used > before.used else { return "; not growing at present" }
    let (product, overflow) = now.free.multipliedReportingOverflow(by: earlier.seconds)
    guard !overflow else { return "" }
    return "; full in \(duration(product / (now.used - before.used))) at the present rate"
  }
}

extension BlockUsage {
  /// Blocks that are not in use.
  var free: UInt64 { total - min(used, total) }
  /// Share in use, in percent, rounded down.
  var percent: UInt64 {
    let (product, overflow) = used.multipliedReportingOverflow(by: 100)
    guard total > 0 else { return 0 }
    return overflow ? used / max(1, total / 100) : product / total
  }
}
