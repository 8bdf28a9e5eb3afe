import ThinFormat

/// A small pool's metadata, made and damaged from a seed so that it must be salvaged: dumped with
/// --repair, restored, and written to by the kernel.
public struct SalvageTrial {
  /// The damage, for reports.
  public let damage: String
  /// The damaged metadata device.
  public let device: MemoryDevice
  /// The size of a data block in sectors.
  public static var dataBlockSectors: UInt32 { 128 }

  /// The pool made from a seed.
  /// - Throws: errors of the engine, which mean a fault of the engine or the generator.
  public init(seed: UInt64) throws {
    var random = SplitMix64(seed: seed)
    var kind = PoolHistory.Kind(
      "salvaged", metadataBlocks: 300...900, commits: 4...40, operations: 1...15, window: 8...40)
    kind.snapshots = 90
    kind.deletions = 50
    kind.creations = 20
    kind.discards = 120
    kind.activations = 80
    let history = try PoolHistory(kind, seed: seed)
    let device = history.device
    let superblock = history.superblocks.last ?? Superblock()
    let generator = try DamageGenerator(device)
    var done: [String] = []
    func wipe(_ block: UInt64, _ name: String) {
      let bytes = device.edit(block)
      for i in 0..<bytes.count { bytes[i] = 0 }
      done.append(name)
    }
    switch Int.random(in: 0..<8, using: &random) {
    case 0: wipe(0, "superblock")
    case 1:
      wipe(superblock.detailsRoot, "details")
      wipe(0, "superblock")
    case 2: wipe(superblock.detailsRoot, "details")
    case 3: wipe(superblock.mappingRoot, "device tree")
    case 4:
      wipe(superblock.metadataSpaceMap.bitmapRoot, "metadata index")
      wipe(0, "superblock")
    case 5, 6:
      let back = Int.random(in: 0..<history.superblocks.count, using: &random)
      history.putBack(history.superblocks[back])
      done.append("superblock of \(history.superblocks.count - 1 - back) commits before")
    default: break
    }
    for _ in 0..<Int.random(in: done.isEmpty ? 1...3 : 0...1, using: &random) {
      let more = generator.damage(&random)
      done.append("\(more)")
      if more.action == .truncate { break }
      // Damage without redundancy on disk makes another sound pool.
      if more.anotherSoundPool != nil {
        device.revert()
        done.append("all of it taken back")
      }
    }
    self.device = device
    damage = done.joined(separator: ", ")
  }

  /// The content of the device.
  public var bytes: [UInt8] {
    (0..<(device.byteCount / UInt64(Limits.blockBytes))).flatMap { Array(device.peek($0)) }
  }
}
