import BlockIO
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

// example: a pool's metadata made, and changed in one transaction
func makePool(metadata path: String) throws {
  let file = try FileDevice(path: path, access: .readWrite, exclusive: true)
  // Blocks of 128 sectors; the first block of the file has to be zero.
  let pool = try PoolMetadata.format(file, dataBlockSectors: 128)
  try pool.resizeData(to: 1024)
  // Blocks that are added, or freed, are given out after a commit.
  try pool.commit()
  try pool.createThin(1)
  for virtualBlock in [0, 1, 7] as [VirtualBlock] {
    try pool.insert(1, virtualBlock, dataBlock: try pool.allocateDataBlock())
  }
  try pool.createSnapshot(2, origin: 1)
  // Until here the file holds the empty pool; a crash changes nothing.
  try pool.commit()
}
// end

// example: where the data of each thin device is
func places(metadata path: String) throws -> [String] {
  let file = try FileDevice(path: path, access: .readOnly, exclusive: false)
  let view = try MetadataView(file, source: .current)
  let blockBytes = UInt64(view.superblock.dataBlockSectors) * 512
  var lines: [String] = []
  for device in try view.devices() {
    lines.append("thin device \(device.id): \(device.details.mappedBlocks) blocks")
    try view.forEachRun(of: device.root) { run in
      lines.append(
        "\(run.length * blockBytes) bytes from byte \(run.virtualBlock.rawValue * blockBytes) on "
          + "are at byte \(run.dataBlock.rawValue * blockBytes) of the data device")
    }
  }
  return lines
}
// end

@Suite("Examples of the library ThinMetadata")
struct ThinMetadataExample {
  @Test("metadata is made, changed and read")
  func example() throws {
    let folder = try ScratchFolder()
    let path = try folder.zeros("metadata", size: 1 << 20)
    try makePool(metadata: path)
    let runs = [
      "131072 bytes from byte 0 on are at byte 0 of the data device",
      "65536 bytes from byte 458752 on are at byte 131072 of the data device",
    ]
    #expect(
      try places(metadata: path)
        == ["thin device 1: 3 blocks"] + runs + ["thin device 2: 3 blocks"] + runs)
  }
}
