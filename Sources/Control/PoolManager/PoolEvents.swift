public import DeviceMapper

/// A change of a pool between two observations.
public struct PoolEvent: Equatable, Sendable {
  /// The kind of change.
  public enum Kind: String, Sendable {
    case appeared, removed
    /// The mode changed; `failed` is one of them.
    case mode
    case needsCheck = "needs-check"
    /// Free data is at or below the low water mark.
    case lowData = "low-data"
    /// Free metadata is at or below the kernel's mark.
    case lowMetadata = "low-metadata"
    /// Writes that need a free block now fail, or now wait.
    case noSpacePolicy = "no-space-policy"
    /// The kernel raised an event, but the pool's status has not changed.
    case other
  }

  /// The kind of change.
  public var kind: Kind
  /// A line for users.
  public var text: String

  /// An event.
  public init(_ kind: Kind, _ text: String) {
    self.kind = kind
    self.text = text
  }
}

/// The state of a pool at one moment.
public struct PoolObservation: Equatable, Sendable {
  /// Number of the last event.
  public var eventNumber: UInt32
  /// Its status.
  public var status: ThinPoolStatus
  /// The number of free data blocks at which it raises an event.
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

  /// Whether the kernel raised an event that none of the events found so far explains: the kernel
  /// signals the marks again after each resume of the pool.
  private func isUnexplained(since before: PoolObservation, _ events: [PoolEvent]) -> Bool {
    events.isEmpty && eventNumber != before.eventNumber
  }

  /// The events since `before`; at least one if the event number has changed.
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
      if isLowOnData && (!before.isLowOnData || isUnexplained(since: before, events)) {
        events.append(
          PoolEvent(
            .lowData,
            "\(freeData ?? 0) of \(details.data.total) data blocks free, low water mark "
              + "\(lowWaterBlocks)"))
      }
      if isLowOnMetadata && (!before.isLowOnMetadata || isUnexplained(since: before, events)) {
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
  /// The mode, or the failure, in the kernel's words.
  public var modeName: String {
    switch self {
    case .working(let details): details.mode.rawValue
    case .failed: "fail"
    case .error: "error"
    }
  }
}
