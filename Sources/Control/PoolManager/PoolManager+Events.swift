import CDMThin
import DeviceMapper
import Glibc
public import ThinTools

/// Watches pools in the kernel and in servers, and reports their changes.
public final class PoolWatch {
  private var places: [PoolWatchPlace] = []

  /// Watches `names`, or all pools if it is empty.
  /// - Throws: for a name that is not an active pool, and for a backend without events.
  public convenience init(_ manager: PoolManager, _ names: [String]) throws(ToolError) {
    try self.init([(manager, names)])
  }

  /// Watches pools in several places; in each the named ones, or all if no name is given.
  public init(_ places: [(manager: PoolManager, names: [String])]) throws(ToolError) {
    for place in places { self.places.append(try PoolWatchPlace(place.manager, place.names)) }
  }

  /// The number of pools watched now.
  public var count: Int { places.reduce(0) { $0 + $1.count } }

  /// Waits for events.
  /// - Parameter milliseconds: the time limit; nil waits for ever.
  /// - Returns: the events, sorted by pool name; empty after the time limit, a signal, or if no
  ///   pool is left to watch.
  public func next(milliseconds: Int32?) throws(ToolError) -> [(pool: String, PoolEvent)] {
    let start = monotonicMilliseconds()
    while true {
      let events = try look(arms: true)
      if !events.isEmpty { return events }
      if places.allSatisfy(\.isDone) { return [] }
      var left = milliseconds
      if let milliseconds {
        let spent = monotonicMilliseconds() - start
        guard spent < Int64(milliseconds) else { return [] }
        left = milliseconds - Int32(clamping: spent)
      }
      let isReady: Bool
      do throws(DeviceMapperError) {
        isReady = try wait(left)
      } catch {
        if error.code == EINTR { return [] }
        throw places[0].failure("wait for events", error)
      }
      if !isReady { return try look(arms: false) }
    }
  }

  /// The changes of the pools of all places. If one of several places has gone, it is dropped.
  /// - Parameter arms: whether to arm before querying, so that a change in between ends the next
  ///   wait.
  private func look(arms: Bool) throws(ToolError) -> [(pool: String, PoolEvent)] {
    var events: [(pool: String, PoolEvent)] = []
    for place in places {
      do throws(ToolError) {
        if arms { try place.arm() }
        events += try place.look()
      } catch {
        guard places.count > 1 else { throw error }
        place.manager.warn("\(error.message); its pools are no longer watched")
        events += place.allGone()
        places.removeAll { $0 === place }
      }
    }
    return events.sorted { $0.pool < $1.pool }
  }

  private func wait(_ milliseconds: Int32?) throws(DeviceMapperError) -> Bool {
    if places.count == 1 { return try places[0].source.waitForEvents(milliseconds: milliseconds) }
    if places.contains(where: { $0.source.hasEvents }) { return true }
    var entries = places.map {
      pollfd(fd: $0.source.eventDescriptor, events: Int16(POLLIN), revents: 0)
    }
    let ready = unsafe poll(&entries, nfds_t(entries.count), milliseconds.map { max(0, $0) } ?? -1)
    guard ready >= 0 else { throw DeviceMapperError(.wait, device: "", code: errno) }
    return ready > 0
  }

  private func monotonicMilliseconds() -> Int64 {
    Int64(dmthin_monotonic_nanoseconds() / 1_000_000)
  }
}

/// The watched pools of one place.
private final class PoolWatchPlace {
  let manager: PoolManager
  let source: any DeviceEventSource
  /// Names of the pools to watch; empty for all.
  private let names: [String]
  private var known: [String: PoolObservation] = [:]

  init(_ manager: PoolManager, _ names: [String]) throws(ToolError) {
    guard let source = manager.backend as? any DeviceEventSource else {
      throw ToolError(.refused, "this backend has no events")
    }
    self.manager = manager
    self.source = source
    var pools: [String] = []
    for name in names { pools.append(try manager.pool(name).name) }
    self.names = pools
    try arm()
    known = try observe()
  }

  var count: Int { known.count }
  /// Whether all named pools have gone.
  var isDone: Bool { !names.isEmpty && known.isEmpty }

  func arm() throws(ToolError) {
    do throws(DeviceMapperError) {
      try source.armEvents()
    } catch {
      throw failure("watch for events", error)
    }
  }

  func failure(_ what: String, _ error: DeviceMapperError) -> ToolError {
    manager.failure(what, error)
  }

  func look() throws(ToolError) -> [(pool: String, PoolEvent)] {
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

  /// Reports every pool of a place that has gone as removed.
  func allGone() -> [(pool: String, PoolEvent)] {
    defer { known = [:] }
    return known.keys.sorted().map { ($0, PoolEvent(.removed, "the pool is gone")) }
  }

  private func observe() throws(ToolError) -> [String: PoolObservation] {
    var result: [String: PoolObservation] = [:]
    for pool in try manager.pools() where names.isEmpty || names.contains(pool.name) {
      // Without a commit, so that watching does not change what is watched.
      guard let status = try? manager.status(pool, flushes: false) else { continue }
      result[pool.name] = PoolObservation(
        eventNumber: pool.info.eventNumber, status: status,
        lowWaterBlocks: pool.target.lowWaterBlocks)
    }
    return result
  }
}
