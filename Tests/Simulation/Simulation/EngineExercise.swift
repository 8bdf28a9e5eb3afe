import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// Runs various operations on a pool whose metadata may be damaged. Whatever the results, they must
/// end and must not trap.
func exerciseEngine(_ device: MemoryDevice, _ random: inout some RandomNumberGenerator) {
  guard let pool = try? PoolMetadata.open(device, cacheBlocksMax: 32) else { return }
  var ids: [ThinID] = []
  if let view = try? MetadataView(device, source: .current), let roots = try? view.deviceRoots() {
    ids = roots.map(\.id)
  }
  for _ in 0..<12 {
    let id = ids.randomElement(using: &random) ?? 0
    let count = UInt64.random(in: 0...3000, using: &random)
    let block = VirtualBlock(count)
    // All new devices have the same id, so that some are refused.
    let new = ThinID.max
    do throws(PoolError) {
      switch Int.random(in: 0..<14, using: &random) {
      case 0: try pool.createThin(new)
      case 1: try pool.createSnapshot(new, origin: id)
      case 2: try pool.delete(id)
      case 3: for i in 0..<300 { try pool.provision(id, block + UInt64(i)) }
      case 4: try pool.provision(id, VirtualBlock(.random(in: 0...UInt64.max, using: &random)))
      case 5: try pool.remove(id, 0..<block)
      case 6: try pool.discardPassingDown(id, block..<(block + 1000))
      case 7: try pool.reserveMetadataSnapshot()
      case 8: try pool.releaseMetadataSnapshot()
      case 9: try pool.resizeData(to: pool.dataBlockCount &+ count)
      case 10: try pool.abort()
      case 11:
        _ = try pool.highestMapped(id)
        _ = try pool.nextRun(id, 0..<VirtualBlock(.max))
      default: try pool.commit()
      }
      _ = pool.freeDataBlocks
      _ = pool.freeMetadataBlocks
    } catch {
      if pool.hasFailed { guard (try? pool.abort()) != nil else { return } }
    }
  }
}
