/// The properties of a pool under trial.
struct PoolShape {
  var blockBytes = 64 << 10
  var volumeBlocks = 6
  var dataBlocks = 24
  /// The number of data blocks at the start, before the pool grows.
  var dataBlocksAtFirst = 24
  var metadataBytes = 1 << 20
  var metadataBytesAtFirst = 1 << 20
  var originSectors = 4 * 128 + 40
  var volumesMax = 4
  /// Features in addition to those that the seed selects.
  private var others: [String] = []
  /// Whether new blocks are zeroed.
  var zeroesBlocks: Bool { !others.contains("skip_block_zeroing") }
  /// Whether discards are passed down; the seed selects it.
  var passesDiscardsDown = true
  /// The features in a table line.
  var features: String {
    let all = (passesDiscardsDown ? [] : ["no_discard_passdown"]) + ["error_if_no_space"] + others
    return "\(all.count) \(all.joined(separator: " "))"
  }
  /// Whether the data disk behaves as a file: unwritten and discarded parts are holes.
  var hasHoles = false

  /// Sectors of a data block.
  var sectorsPerBlock: Int { blockBytes / 512 }
  /// Sectors of a volume.
  var sectorCount: Int { volumeBlocks * sectorsPerBlock }
  /// The possible sizes of a request in sectors; repetition sets their probability.
  var requestSectors: [Int] {
    sectorsPerBlock > 128
      ? [1, 8, 300, sectorsPerBlock, 2 * sectorsPerBlock] : [1, 8, 8, 100, 300]
  }

  /// The properties of a kind.
  init(_ kind: PoolCrashTrial.Kind) {
    switch kind {
    case .usual: break
    case .largeBlocks:
      // More than one request, and not a power of two.
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
