import Testing
import ThinTools

@testable import PoolManager

@Suite struct GeometryTests {
  private static let gibibyte: UInt64 = 1 << 21

  @Test("the block size is the smallest with which all data needs at most half of the metadata")
  func choice() throws {
    for (data, metadata) in [
      (1, 8), (64, 8), (1024, 64), (1024, 8), (16 << 10, 128), (16 << 10, 16),
    ] {
      let made = try PoolGeometry(
        dataSectors: UInt64(data) * Self.gibibyte, metadataSectors: UInt64(metadata) * 2048)
      #expect(made.metadataNeeded * 2 <= made.metadataBlocks, "\(data) GiB, \(metadata) MiB")
      if made.blockSectors > 128 {
        let smaller = try PoolGeometry(
          dataSectors: UInt64(data) * Self.gibibyte, metadataSectors: UInt64(metadata) * 2048,
          blockSectors: made.blockSectors / 2)
        #expect(smaller.metadataNeeded * 2 > smaller.metadataBlocks)
        #expect(made.reason.contains("leave half of the metadata"))
      } else {
        #expect(made.reason.contains("the smallest, which copy and zero least"))
      }
      #expect(made.reason.contains("\(made.metadataNeeded) of \(made.metadataBlocks)"))
      #expect(made.warning == nil)
    }
  }

  @Test("metadata that is too small is warned about, with the size needed")
  func tooSmall() throws {
    let made = try PoolGeometry(
      dataSectors: 1024 * Self.gibibyte, metadataSectors: 16384, blockSectors: 128)
    #expect(made.reason.contains("as asked"))
    #expect(made.warning?.contains("run out of metadata first") == true)
  }

  @Test("the low water mark is a twentieth, at least a block and at most 16 GiB")
  func lowWater() throws {
    #expect(PoolGeometry.lowWater(blocks: 1, blockSectors: 128) == 1)
    #expect(PoolGeometry.lowWater(blocks: 1600, blockSectors: 128) == 80)
    #expect(PoolGeometry.lowWater(blocks: .max, blockSectors: 2_097_152) == 16)
  }

  @Test("impossible block sizes are refused", arguments: [0, 64, 129, 2_097_152 + 128] as [UInt32])
  func refusedBlocks(_ sectors: UInt32) {
    #expect(throws: ToolError.self) {
      try PoolGeometry(
        dataSectors: Self.gibibyte, metadataSectors: 16384, blockSectors: sectors)
    }
  }

  @Test("devices of any size are refused or served, and never trap")
  func extremes() throws {
    let sizes: [UInt64] = [0, 1, 79, 80, 127, 128, 1 << 31, 1 << 54, 1 << 55, .max - 1, .max]
    for data in sizes {
      for metadata in sizes {
        for block in [nil, 128, 2_097_152] as [UInt32?] {
          let made = try? PoolGeometry(
            dataSectors: data, metadataSectors: metadata, blockSectors: block)
          guard let made else { continue }
          #expect(made.dataBlocks > 0 && made.dataBlocks <= data / UInt64(made.blockSectors))
        }
      }
    }
  }
}
