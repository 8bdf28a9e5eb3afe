/// Removes every device that nobody has open, some at a time, until that makes no more difference. Devices
/// that are made meanwhile stay.
public final class RemovalOfAll {
  /// Devices that are looked at in a step, and those of them that are removed.
  private static let perStep = (looks: 512, removals: 32)

  private let mapper: UserspaceDeviceMapper
  private let isDeferred: Bool
  /// To be looked at in this round.
  private var due: [MappedDevice]
  /// Those that somebody has open.
  private var kept: [MappedDevice] = []
  /// Something was removed in this round: what stood below it may be free now.
  private var goesOn = false

  /// Nothing is removed yet.
  /// - Parameter isDeferred: what is open goes when it is closed.
  public init(_ mapper: UserspaceDeviceMapper, isDeferred: Bool) {
    self.mapper = mapper
    self.isDeferred = isDeferred
    due = mapper.all.reversed()
  }

  /// Removes some more; false when there is nothing left to do.
  public func step() -> Bool {
    var removals = 0
    for _ in 0..<Self.perStep.looks where removals < Self.perStep.removals {
      guard let device = due.popLast() else { return beginRound() }
      if device.isRemoved { continue }
      if device.openCount == 0 && !device.isBusy {
        mapper.destroy(device)
        removals += 1
        goesOn = true
      } else {
        kept.append(device)
      }
    }
    return true
  }

  private func beginRound() -> Bool {
    guard goesOn else {
      if isDeferred { for device in kept { device.isDeferredRemove = true } }
      return false
    }
    (due, kept, goesOn) = (kept.reversed(), [], false)
    return true
  }
}
