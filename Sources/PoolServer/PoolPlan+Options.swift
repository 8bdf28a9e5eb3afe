import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import Targets
import ThinTools

extension PoolPlan {
  /// The devices for the pool in the server's options.
  init(_ options: ServeOptions, metadata: String, data: String) throws(ToolError) {
    var request = Request(name: options.name, metadata: metadata, data: data)
    request.volumes = options.volumes
    request.features = options.features
    request.lowWaterBlocks = options.lowWaterBlocks
    request.isReadOnly = options.isReadOnly
    try self.init(request)
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
