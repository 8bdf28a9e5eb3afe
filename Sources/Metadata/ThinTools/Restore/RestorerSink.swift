import ThinFormat
import ThinMetadata

/// Passes a pool to a `Restorer` part by part, as its XML would be.
struct RestorerSink: PoolSink {
  let restorer: Restorer

  func begin(_ header: DumpHeader) throws(ToolError) {
    var superblock = PoolXmlSuperblock()
    superblock.uuid = header.uuidText
    superblock.time = header.time
    superblock.transactionID = header.transactionID
    superblock.flags = header.flags
    superblock.version = header.version
    superblock.dataBlockSectors = header.dataBlockSectors
    superblock.dataBlockCount = header.dataBlockCount
    try restorer.beginSuperblock(superblock)
  }

  func beginDefinition(_ name: UInt64) throws(ToolError) { try restorer.beginDef(name: "\(name)") }

  func endDefinition() throws(ToolError) { try restorer.endDef() }

  func beginDevice(_ id: ThinID, _ details: DeviceDetails) throws(ToolError) {
    var device = PoolXmlDevice()
    device.id = id
    device.mappedBlocks = details.mappedBlocks
    device.transactionID = details.transactionID
    device.creationTime = details.creationTime
    device.snapshottedTime = details.snapshottedTime
    try restorer.beginDevice(device)
  }

  func endDevice() throws(ToolError) { try restorer.endDevice() }

  func reference(_ name: UInt64) throws(ToolError) { try restorer.ref(name: "\(name)") }

  func run(_ run: MappingRun) throws(ToolError) {
    try restorer.mapping(
      PoolXmlMapping(
        thinBegin: run.virtualBlock, dataBegin: run.dataBlock, length: run.length, time: run.time))
  }

  func beginSnapshot(_ superblock: Superblock) { restorer.beginSnapshot(superblock) }

  func end() { restorer.endSuperblock() }
}
