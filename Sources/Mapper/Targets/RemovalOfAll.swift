/// Removes every device that is not open, in steps, until no more can be removed. Devices made in
/// the meantime stay.
public final class RemovalOfAll {
  /// Devices to examine per step, and the most to remove.
  private static let perStep = (looks: 512, removals: 32)

  private let mapper: UserspaceDeviceMapper
  private let isDeferred: Bool
  /// The devices to examine in this round.
  private var due: [MappedDevice]
  /// The devices that are open.
  private var kept: [MappedDevice] = []
  /// Whether a device was removed in this round, so that the devices below it may be free now.
  private var goesOn = false

  /// Removes nothing yet.
  /// - Parameter isDeferred: whether open devices are removed when they are closed.
  public init(_ mapper: UserspaceDeviceMapper, isDeferred: Bool) {
    self.mapper = mapper
    self.isDeferred = isDeferred
    due = mapper.all.reversed()
  }

  /// Removes some devices. Returns false when there is nothing left to do.
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
