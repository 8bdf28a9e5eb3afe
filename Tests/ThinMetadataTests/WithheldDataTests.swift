import PersistentData
import Simulation
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@Suite("Data blocks withheld in memory")
struct WithheldDataTests {
  private func pool(_ blocks: UInt64) throws -> (MemoryDevice, PoolMetadata) {
    let device = MemoryDevice(byteCount: 1 << 20)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: blocks)
    try pool.createThin(1)
    try pool.openDevice(1)
    try pool.commit()
    return (device, pool)
  }

  private func check(_ device: MemoryDevice) throws -> CheckReport {
    try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
  }

  private func expectNoneFree(_ pool: PoolMetadata) {
    #expect(pool.freeDataBlocks == 0)
    #expect(throws: PoolError.self) { try pool.allocateDataBlock() }
    #expect(throws: PoolError.self) { try pool.reserveDataBlock() }
  }

  @Test("reserved blocks are found in the order of allocation, each once, and are in no commit")
  func reserving() throws {
    let (device, pool) = try pool(4)
    #expect(try pool.reserveDataBlock() == 0)
    #expect(try pool.allocateDataBlock() == 1)
    #expect(try pool.reserveDataBlock() == 2)
    try pool.insert(1, 0, dataBlock: 1)
    #expect(try pool.reserveDataBlock() == 3)
    expectNoneFree(pool)
    try pool.commit()
    expectNoneFree(pool)
    #expect(try check(device).isClean)
    try pool.claimDataBlock(3)
    try pool.insert(1, 1, dataBlock: 3)
    expectNoneFree(pool)
    pool.restoreData(0..<1)
    #expect(pool.freeDataBlocks == 1)
    #expect(try pool.reserveDataBlock() == 0)
    #expect(throws: PoolError.self) { try pool.claimDataBlock(1) }
    try pool.commit()
    #expect(try check(device).isClean)
  }

  @Test(
    "a block that is withheld before its last reference is dropped stays withheld, also after an abort"
  )
  func withholding() throws {
    let (_, pool) = try pool(2)
    for block in 0..<2 as Range<VirtualBlock> {
      try pool.insert(1, block, dataBlock: try pool.allocateDataBlock())
    }
    try pool.commit()
    try pool.withholdData(0..<2)
    #expect(throws: PoolError.self) { try pool.withholdData(1..<2) }
    try pool.abort()
    try pool.remove(1, 0..<2)
    try pool.commit()
    // They were withheld before and after the abort.
    expectNoneFree(pool)
    pool.restoreData(0..<2)
    #expect(pool.freeDataBlocks == 2)
    try pool.withholdData(0..<1)
    try pool.abort()
    #expect(try pool.reserveDataBlock() == 1)
    #expect(throws: PoolError.self) { try pool.reserveDataBlock() }
  }
}
