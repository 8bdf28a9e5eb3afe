import BlockIO
import ThinFormat
import ThinMetadata

/// A pool's attributes in the first line of a dump.
struct DumpHeader {
  var uuid: (low: UInt64, high: UInt64)
  var time: UInt32
  var transactionID: UInt64
  /// Bit 0 is needs-check.
  var flags: UInt32
  var version: UInt32
  var dataBlockSectors: UInt32
  var dataBlockCount: UInt64

  /// The header for a superblock.
  /// - Parameter dataBlockCount: data blocks of the pool. A metadata snapshot does not have the
  ///   number, and a dump without it could not be restored.
  init(_ superblock: Superblock, dataBlockCount: UInt64, _ overrides: SuperblockOverrides) {
    uuid = superblock.uuid
    time = superblock.time
    transactionID = max(superblock.transactionID, overrides.transactionID ?? 0)
    flags = superblock.flags
    version = superblock.version
    dataBlockSectors = overrides.dataBlockSectors ?? superblock.dataBlockSectors
    self.dataBlockCount = max(dataBlockCount, overrides.dataBlockCount ?? 0)
  }

  var needsCheck: Bool { flags & SuperblockRecord.needsCheckFlag != 0 }

  /// Its line of XML.
  /// - Parameter extra: an attribute to add after the flags.
  func element(extra: String = "") -> String {
    "<superblock uuid=\"\(uuidText)\" time=\"\(time)\" transaction=\"\(transactionID)\""
      + (needsCheck ? " flags=\"1\"" : "") + extra
      + " data_block_size=\"\(dataBlockSectors)\" nr_data_blocks=\"\(dataBlockCount)\">\n"
  }

  /// Empty for zeros, which the kernel writes; otherwise 32 hexadecimal digits in the order of the
  /// bytes on disk.
  var uuidText: String {
    guard uuid.low != 0 || uuid.high != 0 else { return "" }
    func digits(_ word: UInt64) -> String {
      let text = String(word.byteSwapped, radix: 16)
      return String(repeating: "0", count: 16 - text.count) + text
    }
    return digits(uuid.low) + digits(uuid.high)
  }
}

/// Formats of a dump.
public enum DumpFormat: String, Sendable, CaseIterable {
  case xml
  case humanReadable = "human_readable"
}

/// Writes the parts of a dump in their order, in one of the formats.
struct DumpWriter: PoolSink {
  let sink: ByteSink
  let format: DumpFormat

  /// Does nothing: dumps do not contain the metadata snapshot.
  func beginSnapshot(_ superblock: Superblock) {}

  private func write(_ text: String) throws(ToolError) {
    try written { () throws(BlockIOError) in try sink.write(text) }
  }

  func begin(_ header: DumpHeader) throws(ToolError) {
    switch format {
    case .xml:
      try write(header.element(extra: " version=\"\(header.version)\""))
    case .humanReadable:
      try write(
        "begin superblock: \"\(header.uuidText)\", \(header.time), \(header.transactionID), "
          + "\(header.needsCheck ? 1 : 0), \(header.version), \(header.dataBlockSectors), "
          + "\(header.dataBlockCount)\n")
    }
  }

  func end() throws(ToolError) {
    switch format {
    // No newline: programs compare dumps byte for byte with those of the original tool.
    case .xml: try write("</superblock>")
    case .humanReadable: try write("end superblock\n")
    }
  }

  func beginDefinition(_ name: UInt64) throws(ToolError) {
    switch format {
    case .xml: try write("  <def name=\"\(name)\">\n")
    case .humanReadable: try write("def: \(name)\n")
    }
  }

  func endDefinition() throws(ToolError) {
    switch format {
    case .xml: try write("  </def>\n")
    case .humanReadable: try write("\n")
    }
  }

  func beginDevice(_ id: ThinID, _ details: DeviceDetails) throws(ToolError) {
    switch format {
    case .xml:
      try write(
        "  <device dev_id=\"\(id)\" mapped_blocks=\"\(details.mappedBlocks)\" "
          + "transaction=\"\(details.transactionID)\" creation_time=\"\(details.creationTime)\" "
          + "snap_time=\"\(details.snapshottedTime)\">\n")
    case .humanReadable:
      try write(
        "device: \(id)\nmapped_blocks: \(details.mappedBlocks)\n"
          + "transaction: \(details.transactionID)\ncreation time: \(details.creationTime)\n"
          + "snap time: \(details.snapshottedTime)\n")
    }
  }

  func endDevice() throws(ToolError) {
    switch format {
    case .xml: try write("  </device>\n")
    case .humanReadable: try write("\n")
    }
  }

  func reference(_ name: UInt64) throws(ToolError) {
    switch format {
    case .xml: try write("    <ref name=\"\(name)\"/>\n")
    case .humanReadable: try write("    ref: \(name)\n")
    }
  }

  func run(_ run: MappingRun) throws(ToolError) {
    let format = self.format
    do throws(BlockIOError) {
      try unsafe sink.write(upTo: 256) { line in
        switch format {
        case .xml:
          if run.length == 1 {
            unsafe line.append("    <single_mapping origin_block=\"")
            unsafe line.append(decimal: run.virtualBlock.rawValue)
            unsafe line.append("\" data_block=\"")
            unsafe line.append(decimal: run.dataBlock.rawValue)
          } else {
            unsafe line.append("    <range_mapping origin_begin=\"")
            unsafe line.append(decimal: run.virtualBlock.rawValue)
            unsafe line.append("\" data_begin=\"")
            unsafe line.append(decimal: run.dataBlock.rawValue)
            unsafe line.append("\" length=\"")
            unsafe line.append(decimal: run.length)
          }
          unsafe line.append("\" time=\"")
          unsafe line.append(decimal: UInt64(run.time))
          unsafe line.append("\"/>\n")
        case .humanReadable:
          unsafe line.append("    (")
          unsafe line.append(decimal: run.virtualBlock.rawValue)
          unsafe line.append("..")
          unsafe line.append(decimal: run.virtualBlock.rawValue &+ run.length &- 1)
          unsafe line.append(") -> (")
          unsafe line.append(decimal: run.dataBlock.rawValue)
          unsafe line.append("..")
          unsafe line.append(decimal: run.dataBlock.rawValue &+ run.length &- 1)
          unsafe line.append("), ")
          unsafe line.append(decimal: UInt64(run.time))
          unsafe line.append("\n")
        }
      }
    } catch {
      throw ToolError(error)
    }
  }
}
