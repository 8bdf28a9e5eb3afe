public import DeviceMapper

/// What became of a pool between two looks at it.
public struct PoolEvent: Equatable, Sendable {
  /// What happened.
  public enum Kind: String, Sendable {
    case appeared, removed
    /// The mode changed; `failed` is one of them.
    case mode
    case needsCheck = "needs-check"
    /// Free data is at or below the low water mark.
    case lowData = "low-data"
    /// Free metadata is at or below the kernel's mark.
    case lowMetadata = "low-metadata"
    /// Writes that find no block fail now, or wait.
    case noSpacePolicy = "no-space-policy"
    /// The kernel raised an event, and nothing that it says of the pool has changed.
    case other
  }

  /// What happened.
  public var kind: Kind
  /// A line for people.
  public var text: String

  /// An event.
  public init(_ kind: Kind, _ text: String) {
    self.kind = kind
    self.text = text
  }
}

/// What is known of a pool at one moment.
public struct PoolObservation: Equatable, Sendable {
  /// Number of the last event.
  public var eventNumber: UInt32
  /// What it says of itself.
  public var status: ThinPoolStatus
  /// Number of free data blocks at which it raises an event.
  public var lowWaterBlocks: UInt64

  /// An observation.
  public init(eventNumber: UInt32, status: ThinPoolStatus, lowWaterBlocks: UInt64) {
    self.eventNumber = eventNumber
    self.status = status
    self.lowWaterBlocks = lowWaterBlocks
  }

  private var freeData: UInt64? {
    guard case .working(let details) = status else { return nil }
    return details.data.total - min(details.data.used, details.data.total)
  }

  private var freeMetadata: UInt64? {
    guard case .working(let details) = status else { return nil }
    return details.metadata.total - min(details.metadata.used, details.metadata.total)
  }

  private var isLowOnData: Bool { freeData.map { $0 <= lowWaterBlocks } ?? false }

  private var isLowOnMetadata: Bool {
    guard case .working(let details) = status, let mark = details.metadataLowWater,
      let free = freeMetadata
    else { return false }
    return free <= mark
  }

  /// What has happened since `before`; at least one event where the number has changed.
  public func events(since before: PoolObservation) -> [PoolEvent] {
    var events: [PoolEvent] = []
    let (was, isNow) = (before.status.modeName, status.modeName)
    if was != isNow { events.append(PoolEvent(.mode, "mode \(was) -> \(isNow)")) }
    if case .working(let details) = status {
      let old: ThinPoolStatus.Details? =
        if case .working(let old) = before.status { old } else { nil }
      if details.needsCheck && !(old?.needsCheck ?? false) {
        events.append(PoolEvent(.needsCheck, "the metadata needs a check"))
      }
      if let old, old.noSpace != details.noSpace {
        events.append(
          PoolEvent(.noSpacePolicy, "\(old.noSpace.rawValue) -> \(details.noSpace.rawValue)"))
      }
      if isLowOnData && (!before.isLowOnData || eventNumber != before.eventNumber) {
        events.append(
          PoolEvent(
            .lowData,
            "\(freeData ?? 0) of \(details.data.total) data blocks free, low water mark "
              + "\(lowWaterBlocks)"))
      }
      if isLowOnMetadata && (!before.isLowOnMetadata || eventNumber != before.eventNumber) {
        events.append(
          PoolEvent(
            .lowMetadata,
            "\(freeMetadata ?? 0) of \(details.metadata.total) metadata blocks free, mark "
              + "\(details.metadataLowWater ?? 0)"))
      }
    }
    if events.isEmpty && eventNumber != before.eventNumber {
      events.append(PoolEvent(.other, "event \(eventNumber)"))
    }
    return events
  }
}

extension ThinPoolStatus {
  /// The mode, a failure included, as the kernel calls it.
  public var modeName: String {
    switch self {
    case .working(let details): details.mode.rawValue
    case .failed: "fail"
    case .error: "error"
    }
  }
}
