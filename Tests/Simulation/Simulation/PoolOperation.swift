import PersistentData
import ThinFormat
import ThinMetadata

/// A transaction of a pool, chosen to fit a pool made by a `ModelRun`.
public enum PoolOperation: String, CaseIterable, Sendable {
  case create, snapshot, delete, write, discard, discardPassedDown, setTransactionID, reserve
  case release, growData, growMetadata, setNeedsCheck, several

  /// Prepares the pool of `run`, and returns the operation for a pool opened on the same device:
  /// always the same one, commit included.
  func prepare(_ run: ModelRun) throws -> (PoolMetadata) throws(PoolError) -> Void {
    let device = run.anyDevice()
    let free: ThinID = (1...).first { run.state.devices[$0] == nil } ?? 1
    let blocks = (0..<40).map { _ in
      VirtualBlock(UInt64.random(in: 0..<run.options.virtualBlocks, using: &run.random))
    }
    let first = blocks[0]
    let id = run.state.transactionID
    let dataBlocks = run.state.dataBlockCount + UInt64.random(in: 1...40000, using: &run.random)
    switch self {
    case .reserve, .release:
      if run.state.held != nil { try run.pool.releaseMetadataSnapshot() }
      try run.pool.commit()
      if self == .release { try run.pool.reserveMetadataSnapshot() }
    case .growMetadata:
      run.device.grow(
        byteCount: Int(run.device.byteCount)
          + Limits.blockBytes * Int.random(in: 1...200, using: &run.random))
    default: break
    }
    try run.pool.commit()
    run.device.keep()
    return { pool throws(PoolError) in
      switch self {
      case .create: try pool.createThin(free)
      case .snapshot: try pool.createSnapshot(free, origin: device)
      case .delete: try pool.delete(device)
      case .write: for block in blocks { try pool.provision(device, block) }
      case .discard: try pool.remove(device, first..<(first + 500))
      case .discardPassedDown: try pool.discardPassingDown(device, first..<(first + 500))
      case .setTransactionID: try pool.setTransactionID(id, id + 1)
      case .reserve: try pool.reserveMetadataSnapshot()
      case .release: try pool.releaseMetadataSnapshot()
      case .growData: try pool.resizeData(to: dataBlocks)
      case .growMetadata: try pool.resizeMetadata()
      case .setNeedsCheck: try pool.setNeedsCheck()
      case .several:
        try pool.createSnapshot(free, origin: device)
        for block in blocks { try pool.provision(free, block) }
        try pool.remove(free, first..<(first + 100))
        try pool.createThin(free + 1_000_000)
        try pool.delete(device)
        try pool.setTransactionID(id, id + 1)
      }
      try pool.commit()
    }
  }
}

extension ModelRun {
  /// A small pool with devices, mappings and a history, all committed.
  static func smallPool(seed: UInt64) throws -> ModelRun {
    var options = Options(seed: seed)
    options.metadataBlocks = 160
    options.dataBlocks = 2000
    options.virtualBlocks = 1200
    options.devicesMax = 6
    options.compareEvery = 1000
    let run = try ModelRun(options)
    try run.run(operations: 60)
    while run.state.devices.isEmpty { try run.step() }
    try run.reopen()
    if run.state.devices.isEmpty { return try smallPool(seed: seed &+ 1_000_003) }
    return run
  }
}
