import PersistentData
import ThinFormat

/// The mapping trees that thin devices had in earlier generations, as far as leaves of trees of devices tell
/// that are left on the device.
///
/// Memory: 8 bytes for each device, and for each root, `rootsMax` of a device at most.
struct DeviceHistory {
  /// Roots of a device that are looked at.
  private static let rootsMax = 64
  /// The devices whose roots were collected.
  let ids: Set<UInt64>
  private var roots: [UInt64: [UInt64]] = [:]

  /// - Parameters:
  ///   - leaves: of trees of devices, of whatever generation.
  ///   - index: the block of a generation's metadata index: what lies before it is later.
  ///   - ids: the devices wanted.
  init(_ reader: BlockReader, leaves: [UInt64], before index: UInt64, of ids: Set<UInt64>) {
    self.ids = ids
    // The allocator goes round the device.
    func age(_ block: UInt64) -> UInt64 {
      block <= index ? index - block : index + reader.blockCount - block
    }
    for leaf in leaves.sorted(by: { age($0) < age($1) }) {
      try? reader.withNode(leaf, of: .devices) { node in
        guard node.isLeaf else { return }
        for i in 0..<node.entryCount where ids.contains(node.key(i)) {
          let (id, root) = (node.key(i), node.value64(i))
          guard root < reader.blockCount, roots[id, default: []].count < Self.rootsMax,
            !roots[id, default: []].contains(root)
          else { continue }
          roots[id, default: []].append(root)
        }
      }
    }
  }

  /// Roots that a device had, the likeliest to be the latest first.
  func roots(of id: UInt64) -> [UInt64] { roots[id] ?? [] }
}
