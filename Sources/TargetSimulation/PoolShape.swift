/// What a pool under trial is like.
struct PoolShape {
  var blockBytes = 64 << 10
  var volumeBlocks = 6
  var dataBlocks = 24
  /// Of what there is at the end, how much there is to begin with.
  var dataBlocksAtFirst = 24
  var metadataBytes = 1 << 20
  var metadataBytesAtFirst = 1 << 20
  var originSectors = 4 * 128 + 40
  var volumesMax = 4
  /// Features besides those that the seed chooses.
  private var others: [String] = []
  /// Whether new blocks are zeroed.
  var zeroesBlocks: Bool { !others.contains("skip_block_zeroing") }
  /// Whether the seed has chosen that discards are not passed down.
  var passesDiscardsDown = true
  /// Features, as a table of a pool has them.
  var features: String {
    let all = (passesDiscardsDown ? [] : ["no_discard_passdown"]) + ["error_if_no_space"] + others
    return "\(all.count) \(all.joined(separator: " "))"
  }
  /// The data disk is as a file: what was not written or was discarded is a hole, and known as one.
  var hasHoles = false

  /// Sectors of a data block.
  var sectorsPerBlock: Int { blockBytes / 512 }
  /// Sectors of a volume.
  var sectorCount: Int { volumeBlocks * sectorsPerBlock }
  /// The most sectors that a request may have, with the chances of each.
  var requestSectors: [Int] {
    sectorsPerBlock > 128
      ? [1, 8, 300, sectorsPerBlock, 2 * sectorsPerBlock] : [1, 8, 8, 100, 300]
  }

  /// The shape of a kind.
  init(_ kind: PoolCrashTrial.Kind) {
    switch kind {
    case .usual: break
    case .largeBlocks:
      // More than one request, and no power of two.
      blockBytes = 17 << 16
      volumeBlocks = 3
      dataBlocks = 8
      dataBlocksAtFirst = dataBlocks
      originSectors = sectorsPerBlock + 40
      volumesMax = 3
    case .growing:
      dataBlocksAtFirst = 6
      metadataBytesAtFirst = 512 << 10
    case .holes: hasHoles = true
    case .unzeroed: others = ["skip_block_zeroing"]
    }
  }
}
