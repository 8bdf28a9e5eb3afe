import BlockIO
import DataPath
import DeviceMapper
import Glibc
import PoolManager
import Targets
import ThinTools

extension PoolPlan {
  /// The devices for the pool in the server's options. `metadata` and `data` are names of disks.
  init(_ options: ServeOptions, metadata: String, data: String) throws(ToolError) {
    let (metadataName, dataName) = (DiskName(metadata), DiskName(data))
    var request = Request(
      name: options.name, metadata: metadataName.path ?? metadata, data: dataName.path ?? data)
    request.volumes = options.volumes
    request.features = options.features
    request.lowWaterBlocks = options.lowWaterBlocks
    request.isReadOnly = options.isReadOnly
    if metadataName.path != nil, dataName.path != nil {
      try self.init(request)
      return
    }
    let (blankMetadata, blankData) = (try Self.blankSectors(metadata), try Self.blankSectors(data))
    guard let blankMetadata, let blankData else {
      throw ToolError(
        .refused,
        "one of \(metadata) and \(data) is lost at the end, and a pool needs both: give a file or block "
          + "device for both, or for neither")
    }
    guard metadata != data else {
      throw ToolError(
        .refused,
        "metadata and data cannot be on the same device: give one of them a name, as in \(data)/data"
      )
    }
    try self.init(new: request, metadataSectors: blankMetadata, dataSectors: blankData)
  }

  /// Sectors of a disk that begins with zeros whenever it is opened; nil for one that keeps its content.
  private static func blankSectors(_ name: String) throws(ToolError) -> UInt64? {
    // Files are opened later, with errors of their own.
    if DiskName(name).path != nil { return nil }
    do throws(BlockIOError) {
      return try DiskResolver.find(name).blankByteCount.map { $0 / 512 }
    } catch {
      throw ToolError(.refused, "\(error)")
    }
  }

  /// The devices in a file of concise tables, or of one device per line.
  init(tables path: String, isReadOnly: Bool) throws(ToolError) {
    self.init()
    let text = try Self.contents(path)
    var fault: ConciseTable.FormatError?
    let list = text.split(separator: "\n").filter { !$0.hasPrefix("#") }.joined(separator: ";")
    ConciseTable.parse(list) { (result: Result<ConciseTable.Device, ConciseTable.FormatError>) in
      switch result {
      case .success(var device):
        // Some tables are not to be read-only, a pool's; that nothing is written is seen to elsewhere.
        let isWritable = device.table.contains {
          TargetType.named($0.type)?.traits.contains(.alwaysWritable) == true
        }
        device.isReadOnly = device.isReadOnly || isReadOnly && !isWritable
        devices.append(device)
      case .failure(let error): fault = error
      }
    }
    if let fault {
      throw ToolError(.refused, "\(path): \(fault.messages.joined(separator: " "))")
    }
  }

  private static func contents(_ path: String) throws(ToolError) -> String {
    do throws(BlockIOError) {
      let bytes = try WholeFile.bytes(at: path, upTo: 16 << 20)
      if let text = String(validating: bytes, as: UTF8.self) { return text }
    } catch {
      guard error.code == EFBIG else { throw ToolError(error.code, error.description) }
    }
    throw ToolError(.refused, "\(path) is not a file of tables")
  }
}
