import DeviceMapper
import Glibc
public import ThinTools

/// Follows pools and tells what becomes of them.
public final class PoolWatch {
  private let manager: PoolManager
  private let source: any DeviceEventSource
  /// Names of the pools to follow; empty for all.
  private let names: [String]
  private var known: [String: PoolObservation] = [:]

  /// Follows `names`, or all pools where it is empty.
  /// - Throws: for a name that is no active pool, and a backend that tells no events.
  public init(_ manager: PoolManager, _ names: [String]) throws(ToolError) {
    guard let source = manager.backend as? any DeviceEventSource else {
      throw ToolError(.refused, "this backend tells no events")
    }
    self.manager = manager
    self.source = source
    var pools: [String] = []
    for name in names { pools.append(try manager.pool(name).name) }
    self.names = pools
    try manager.command("watch for events") { () throws(DeviceMapperError) in
      try source.armEvents()
    }
    known = try observe()
  }

  /// Number of pools that are followed now.
  public var count: Int { known.count }

  /// Waits until something happens.
  /// - Parameter milliseconds: how long at most; nil waits for ever.
  /// - Returns: what happened, pools ascending by name; nothing when the time was up or a signal came.
  public func next(milliseconds: Int32?) throws(ToolError) -> [(pool: String, PoolEvent)] {
    let start = monotonicMilliseconds()
    while true {
      do throws(DeviceMapperError) {
        // Armed before looking: what happens between the two ends the next wait.
        try source.armEvents()
      } catch {
        throw manager.failure("watch for events", error)
      }
      let events = try look()
      if !events.isEmpty { return events }
      if !names.isEmpty && known.isEmpty { return [] }
      var left = milliseconds
      if let milliseconds {
        let spent = monotonicMilliseconds() - start
        guard spent < Int64(milliseconds) else { return [] }
        left = milliseconds - Int32(clamping: spent)
      }
      let isReady: Bool
      do throws(DeviceMapperError) {
        isReady = try source.waitForEvents(milliseconds: left)
      } catch {
        if error.code == EINTR { return [] }
        throw manager.failure("wait for events", error)
      }
      if !isReady { return try look() }
    }
  }

  private func look() throws(ToolError) -> [(pool: String, PoolEvent)] {
    let now = try observe()
    defer { known = now }
    var events: [(pool: String, PoolEvent)] = []
    for name in Set(now.keys).union(known.keys).sorted() {
      switch (known[name], now[name]) {
      case (let before?, let after?):
        events += after.events(since: before).map { (name, $0) }
      case (nil, let after?):
        events.append((name, PoolEvent(.appeared, "mode \(after.status.modeName)")))
      case (_?, nil): events.append((name, PoolEvent(.removed, "the pool is gone")))
      case (nil, nil): break
      }
    }
    return events
  }

  private func observe() throws(ToolError) -> [String: PoolObservation] {
    var result: [String: PoolObservation] = [:]
    for pool in try manager.pools() where names.isEmpty || names.contains(pool.name) {
      // Without a commit: whoever watches must not be the cause of what is seen.
      guard let status = try? manager.status(pool, flushes: false) else { continue }
      result[pool.name] = PoolObservation(
        eventNumber: pool.info.eventNumber, status: status,
        lowWaterBlocks: pool.target.lowWaterBlocks)
    }
    return result
  }

  private func monotonicMilliseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }
}
