import DataPath
import DeviceMapper
import Simulation
import ThinTools

/// Makes each read, write, flush and discard of a pool's disks fail, one after the other, under
/// load.
///
/// The rule: requests that need the failed operation fail, and all requests end. A failure of the
/// data device affects only these requests. A failed change of the metadata, or a failed flush in a
/// commit, makes the pool read-only and sets its needs-check flag. If metadata cannot be read, the
/// pool fails. Nothing that was acknowledged and flushed is lost, no flush is acknowledged in vain,
/// and the metadata is clean afterwards, without leaks.
public struct PoolFaultTrial {
  /// The operation that fails.
  public struct Kind: Sendable, CustomStringConvertible {
    let disk: Int
    let operation: BlockOperation

    /// Every kind.
    public static let all =
      [.read, .write, .flush].map { Kind(disk: 0, operation: $0) }
      + [.read, .write, .flush, .discard].map { Kind(disk: 1, operation: $0) }
      + [Kind(disk: 2, operation: .read)]

    /// Whether a load has so many of these operations that a part is enough for a test.
    public var isFrequent: Bool { operation == .write || disk == 0 && operation == .read }

    /// The kind in reports.
    public var description: String { "\(["metadata", "data", "origin"][disk]) \(operation)" }
  }

  private let ground: TrialGround
  private let kind: Kind
  private let seed: UInt64
  private let steps: Int

  /// Faults of a kind, in a load of `steps` steps.
  public init(_ ground: TrialGround, _ kind: Kind, seed: UInt64, steps: Int = 60) {
    self.ground = ground
    self.kind = kind
    self.seed = seed
    self.steps = steps
  }

  /// Runs all faults.
  /// - Parameter stride: runs only each `stride`-th fault.
  /// - Returns: the number of faults, and the number after which the pool continued, became
  ///   read-only, and failed.
  public func run(stride: Int = 1) throws -> [Int] {
    var counts = [0, 0, 0, 0]
    for isLasting in [false, true] {
      var after = Int(seed % UInt64(stride))
      while let end = try fails(after, isLasting) {
        counts[0] += 1
        counts[end] += 1
        after += stride
      }
    }
    return counts
  }

  /// Returns nil if the load has fewer operations, so that none failed.
  private func fails(_ after: Int, _ isLasting: Bool) throws -> Int? {
    let isForgetful = kind.disk == 0 && kind.operation == .read
    let load = PoolLoad(ground, .usual, seed: seed, isForgetful: isForgetful)
    var isClosed = false
    defer { if !isClosed { load.rig.close() } }
    do {
      try load.prepare()
      let disk = load.rig.disks[kind.disk]
      disk.fault = (kind.operation, disk.count(kind.operation) + after, isLasting)
      load.mayFail = true
      try load.run(steps)
      let hasFailed = disk.hasFailed
      disk.fault = nil
      if !hasFailed { return nil }
      let end = try judge(load)
      isClosed = true
      return end
    } catch {
      throw TrialFailure(
        "seed \(seed), \(kind) \(after) fails\(isLasting ? " for good" : ""): \(error)\n  log: "
          + load.rig.log.joined(separator: "\n  log: "))
    }
  }

  /// Checks the pool once the fault is gone.
  private func judge(_ load: PoolLoad) throws -> Int {
    func expect(_ condition: Bool, _ what: String) throws(TrialFailure) {
      if !condition { throw TrialFailure(what) }
    }
    let status = try load.rig.status(noFlush: true)
    try expect(
      kind.disk == 0 || kind.operation == .discard || kind.operation == .flush
        || load.failures > 0, "no request has failed")
    if !load.rig.isDegraded {
      try expect(status?.needsCheck == false, "the pool needs a check")
      try expect(
        kind.disk != 0 || kind.operation == .read, "the pool continues as before")
    } else {
      try expect(
        kind.disk == 0 || kind.operation == .flush, "the pool accepts no changes")
      try expect(status == nil || status?.needsCheck == true, "the pool needs no check")
      try expect(status != nil || kind.operation == .read && kind.disk == 0, "the pool has failed")
    }
    let end = status == nil ? 3 : load.rig.isDegraded ? 2 : 1
    if end < 3 {
      load.mayFail = end == 2
      try load.verify()
    }
    load.rig.close()
    let images = load.rig.disks.prefix(2).map(\.bytes)
    let report = try PoolJudge.check(images[0])
    try expect(
      report.needsCheck == (end == 2) || end == 3, "the needs-check flag is wrong")
    let judge = PoolJudge(ground: ground, shape: load.shape, origin: load.images[2])
    try judge.judge(images, load.model, goesOn: true)
    return end
  }
}
