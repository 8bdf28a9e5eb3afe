import Simulation

/// Cuts the power at every write and flush of a pool under load, for its metadata and data devices
/// together, and checks the result.
///
/// The rule: the metadata is clean, without leaks. Every volume exists, and has everything that was
/// acknowledged before an acknowledged flush, or acknowledged as durable. Later writes are there or
/// not, sector by sector. A volume never has other data, such as another volume's or the former
/// content of a block.
public struct PoolCrashTrial {
  /// The variant of the pool.
  public enum Kind: String, CaseIterable, Sendable {
    case usual
    /// Data blocks that need more than one request to prepare, and whose size is not a power of
    /// two.
    case largeBlocks
    /// Both devices grow while the pool is in use.
    case growing
    /// Data is in a file, whose holes need no zeroing.
    case holes
    /// New blocks are not zeroed (skip_block_zeroing): unwritten sectors may hold anything.
    case unzeroed
  }

  private let seed: UInt64
  private let load: PoolLoad
  private let judge: PoolJudge

  /// Runs a load on a new pool, and records it.
  public init(_ ground: TrialGround, _ kind: Kind, seed: UInt64, steps: Int = 250) throws {
    self.seed = seed
    load = PoolLoad(ground, kind, seed: seed)
    judge = PoolJudge(ground: ground, shape: load.shape, origin: load.images[2])
    do {
      try load.prepare()
      try load.run(steps)
      try load.verify()
    } catch {
      load.rig.close()
      throw TrialFailure("seed \(seed), \(kind), under load: \(error)")
    }
    load.rig.close()
  }

  /// Checks images of power cuts.
  /// - Parameter oneOf: one of this many cuts is checked.
  /// - Returns: the number of images.
  public func run(oneOf rarity: Int = 1) throws -> Int {
    var random = SplitMix64(seed: seed ^ 0x5eed)
    var cut = PowerCut(Array(load.images.prefix(2)))
    let model = PoolModel(load.shape, origin: load.origin)
    var count = 0
    for (position, event) in load.trace.events.enumerated() {
      if case .client(let event) = event {
        model.apply(event)
        continue
      }
      if Int.random(in: 0..<rarity, using: &random) == 0 {
        for survivors in PowerCut.Survivors.allCases {
          if survivors != .everything && !cut.isUncertain { continue }
          do {
            try judge.judge(
              cut.images(survivors, &random), model, goesOn: count % 8 == 0)
          } catch {
            throw TrialFailure(
              "seed \(seed), cut at \(position) of \(load.trace.events.count), \(survivors) of what "
                + "was not flushed survive: \(error)")
          }
          count += 1
        }
      }
      cut.apply(event, at: position)
    }
    return count
  }
}
