import BlockIO
import PersistentData
import ThinMetadata
import ThinTools

/// Makes every read, write and flush of a transaction fail, one after the other.
///
/// The rule: the failure is a `PoolError`. The device holds the last commit, or possibly this one
/// if the superblock was written. The pool refuses to commit until `abort`; then it has the
/// device's state, and can repeat the operation.
public struct FaultTrial {
  /// A fault that leads to a violation of the rule.
  public struct Failure: Error, CustomStringConvertible {
    /// The fault, and the violation.
    public let description: String
  }

  private let operation: PoolOperation
  private let seed: UInt64
  private let device: MemoryDevice
  private let body: (PoolMetadata) throws(PoolError) -> Void
  private let dumpText = DumpText()
  private let before: [UInt8]
  private let after: [UInt8]

  /// An operation on a random pool.
  public init(_ operation: PoolOperation, seed: UInt64) throws {
    self.operation = operation
    self.seed = seed
    let run = try ModelRun.smallPool(seed: seed)
    body = try operation.prepare(run)
    device = run.device
    before = try dumpText.state(of: device)
    try body(PoolMetadata.open(device))
    after = try dumpText.state(of: device)
    device.revert()
  }

  /// Runs all faults.
  /// - Returns: the number of faults.
  public func run() throws -> Int {
    var count = 0
    for kind in [BlockIOError.Operation.read, .write, .flush] {
      for lasts in [false, true] {
        var i = 0
        while try fails(kind, after: i, lasts: lasts) { i += 1 }
        count += i
      }
    }
    return count
  }

  /// - Returns: false if the operation succeeded because it has fewer calls of this kind.
  private func fails(_ kind: BlockIOError.Operation, after i: Int, lasts: Bool) throws -> Bool {
    defer { device.revert() }
    func fail(_ what: String) -> Failure {
      Failure(
        description: "seed \(seed), \(operation), \(kind) \(i) fails\(lasts ? " for good" : ""): "
          + what)
    }
    func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws(Failure) {
      if !condition { throw fail(what()) }
    }
    let faulty = FaultyDevice(device)
    faulty.fault = (kind, i)
    faulty.isLasting = lasts
    let pool: PoolMetadata
    do throws(PoolError) {
      // A small cache causes more reads and writes, also before the commit.
      pool = try PoolMetadata.open(faulty, cacheBlocksMax: 8)
    } catch {
      try expect(faulty.wasMet && isInputOutput(error), "opening: \(error)")
      try expect(try dumpText.state(of: device) == before, "opening changed something")
      return true
    }
    var problem: PoolError?
    do throws(PoolError) { try body(pool) } catch { problem = error }
    guard let problem else {
      try expect(!faulty.wasMet, "the fault was not reported")
      return false
    }
    try expect(faulty.wasMet && isInputOutput(problem), "\(problem)")
    let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    try expect(report.isClean, "\(report.findings.prefix(3))")
    let left = try dumpText.state(of: device)
    try expect(left == before || left == after, "neither the old state nor the new")
    try expect(left == before || kind == .flush, "a failed \(kind) is committed")
    try expect(pool.hasFailed || kind == .read, "the pool has not failed")
    if pool.hasFailed { try expect(refusesCommit(pool), "the pool commits") }
    if lasts, kind == .read, (try? pool.abort()) != nil {
      throw fail("an abort that cannot read the metadata succeeded")
    }
    faulty.fault = nil
    try pool.abort()
    try expect(
      !pool.hasFailed
        && pool.superblock
          == MetadataView(
            device, source: .current
          ).superblock,
      "an abort does not restore the device's state")
    if left == before {
      try body(pool)
      try expect(
        try dumpText.state(of: device) == after, "the second try has another result than the first")
      let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
      try expect(report.isClean, "after the second try: \(report.findings.prefix(3))")
    }
    return true
  }

  private func refusesCommit(_ pool: PoolMetadata) -> Bool {
    do throws(PoolError) {
      try pool.commit()
      return false
    } catch {
      return error == .failed
    }
  }

  private func isInputOutput(_ error: PoolError) -> Bool {
    switch error {
    case .io, .block(_, .io): true
    default: false
    }
  }
}
