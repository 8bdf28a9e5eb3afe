/// Numbers each set of devices that share a leaf.
///
/// Devices are added one after the other, so that a set is another set plus one device. Memory:
/// sixteen bytes for each set, and a few dozen for finding it.
struct OwnerSets {
  private struct Step: Hashable {
    let before: UInt32
    let owner: UInt32
  }

  private var steps: [Step] = []
  private var numbers: [Step: UInt32] = [:]

  /// The set `set` (0 for the empty set) with `owner` added.
  mutating func adding(_ owner: UInt32, to set: UInt32) -> UInt32 {
    let step = Step(before: set, owner: owner)
    if let known = numbers[step] { return known }
    steps.append(step)
    numbers[step] = UInt32(steps.count)
    return UInt32(steps.count)
  }

  /// Calls `body` with the members of a set, the last added first.
  @inline(__always)
  func forEach<E: Error>(_ set: UInt32, _ body: (UInt32) throws(E) -> Void) throws(E) {
    var set = set
    while set != 0 {
      let step = steps[Int(set) - 1]
      try body(step.owner)
      set = step.before
    }
  }
}
