import Simulation

/// Cuts the power at every write and flush of a pool under load, its metadata and data devices
/// together, and looks at what is left.
///
/// The rule: the metadata is clean, without leaks. Every volume is there, and what was
/// acknowledged before an acknowledged flush, or as durable, is on it. What was written since is
/// there or not, sector by sector; nothing is ever there that the volume did not have, be it another
/// volume's or what a block held before.
public struct PoolCrashTrial {
  /// What a pool is like.
  public enum Kind: String, CaseIterable, Sendable {
    case usual
    /// Data blocks that take more than one request to be made ready, and are no power of two.
    case largeBlocks
    /// Both devices grow while the pool is used.
    case growing
    /// Data is in a file, whose holes need no zeros.
    case holes
    /// New blocks are not zeroed (skip_block_zeroing): what nobody wrote may hold anything.
    case unzeroed
  }

  private let seed: UInt64
  private let load: PoolLoad
  private let judge: PoolJudge

  /// Puts a load on a new pool, and records it.
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

  /// Looks at images of power cuts.
  /// - Parameter oneOf: of so many cuts one is looked at.
  /// - Returns: how many images there were.
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
