import BlockIO
import DeviceMapper
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata

/// The devices to make so that a pool and its volumes are served, in order.
struct PoolPlan {
  var devices: [ConciseTable.Device] = []
  /// What the user should know.
  var notes: [String] = []
}

extension PoolPlan {
  /// The devices for a pool on two devices or files.
  init(_ options: ServeOptions, metadata: String, data: String) throws(ServeError) {
    let superblock = try Self.superblock(metadata)
    let blockSectors = UInt64(superblock.dataBlockSectors)
    let dataSectors = try Self.sectors(data) / blockSectors * blockSectors
    guard dataSectors > 0 else {
      throw ServeError(.request, "\(data) is smaller than a data block of the pool")
    }
    var features = options.features
    if options.isReadOnly { features.insert(.readOnly) }
    let target = ThinPoolTarget(
      metadataDevice: Self.word(metadata), dataDevice: Self.word(data), blockSectors: blockSectors,
      lowWaterBlocks: options.lowWaterBlocks ?? dataSectors / blockSectors / 20,
      features: features)
    devices.append(
      ConciseTable.Device(
        name: options.name,
        table: [
          TableLine(
            start: 0, length: dataSectors, type: "thin-pool", parameters: target.parameters)
        ]))
    let sizes = try findSizes(metadata, blockSectors)
    for volume in try volumes(options, sizes) {
      guard volume.name != options.name else {
        throw ServeError(.request, "'\(volume.name)' is the name of the pool itself (see --name)")
      }
      let thin = ThinTarget(
        pool: "/dev/mapper/\(Self.word(options.name))", id: volume.id,
        externalOrigin: volume.origin.map { Self.word($0) })
      devices.append(
        ConciseTable.Device(
          name: volume.name, isReadOnly: options.isReadOnly,
          table: [
            TableLine(
              start: 0, length: volume.sectors ?? 0, type: "thin", parameters: thin.parameters)
          ]))
    }
  }

  /// The volumes that are asked for, or else one for every device, each with its size.
  private mutating func volumes(
    _ options: ServeOptions, _ sizes: [(id: UInt64, sectors: UInt64?)]
  ) throws(ServeError) -> [VolumeSpec] {
    let isEverything = options.volumes.isEmpty
    var volumes =
      isEverything
      ? sizes.map {
        VolumeSpec(name: "thin\($0.id)", id: UInt32(truncatingIfNeeded: $0.id), sectors: nil)
      } : options.volumes
    for (i, volume) in volumes.enumerated().reversed() where volume.sectors == nil {
      guard let found = sizes.first(where: { $0.id == UInt64(volume.id) }) else {
        throw ServeError(.request, "the pool has no thin device \(volume.id) for '\(volume.name)'")
      }
      if let sectors = found.sectors {
        volumes[i].sectors = sectors
        notes.append(
          "\(volume.name): \(sectors) sectors, up to the last block mapped; how large it was made is "
            + "not known (give --volume \(volume.name)=\(volume.id):SIZE)")
        continue
      }
      let fault = "thin device \(volume.id) has nothing mapped, and its size is not known"
      guard isEverything else { throw ServeError(.request, "\(fault): give --volume with a size") }
      notes.append("\(fault): it is not served (give --volume NAME=\(volume.id):SIZE)")
      volumes.remove(at: i)
    }
    return volumes
  }

  /// The devices of a file of concise tables, or of one device to a line.
  init(tables path: String, isReadOnly: Bool) throws(ServeError) {
    let text = try Self.contents(path)
    var fault: ConciseTable.FormatError?
    let list = text.split(separator: "\n").filter { !$0.hasPrefix("#") }.joined(separator: ";")
    ConciseTable.parse(list) { (result: Result<ConciseTable.Device, ConciseTable.FormatError>) in
      switch result {
      case .success(var device):
        // A pool's table is not to be read-only; that nothing is written is seen to elsewhere.
        let hasPool = device.table.contains { $0.type == "thin-pool" }
        device.isReadOnly = device.isReadOnly || isReadOnly && !hasPool
        devices.append(device)
      case .failure(let error): fault = error
      }
    }
    if let fault {
      throw ServeError(.request, "\(path): \(fault.messages.joined(separator: " "))")
    }
  }

  // MARK: - Looking at the pool

  /// A text as one word of a table.
  private static func word(_ text: String) -> String {
    text.reduce(into: "") { word, character in
      if character.isWhitespace || character == "\\" { word.append("\\") }
      word.append(character)
    }
  }

  private static func open(_ path: String) throws(ServeError) -> FileDevice {
    do throws(BlockIOError) {
      return try FileDevice(path: path, access: .readOnly, exclusive: true)
    } catch {
      throw ServeError(error.code, "\(error)")
    }
  }

  private static func superblock(_ path: String) throws(ServeError) -> Superblock {
    let device = try open(path)
    // The kernel's target would format it there and then.
    if let isBlank = try? PoolMetadata.isUnformatted(device), isBlank {
      throw ServeError(.request, "\(path) holds no metadata yet: see 'dmthin pool format'")
    }
    do throws(MetadataError) {
      return try MetadataView(device, source: .current).superblock
    } catch {
      throw ServeError(.damaged, "\(path): \(error)")
    }
  }

  private static func sectors(_ path: String) throws(ServeError) -> UInt64 {
    try open(path).byteCount / 512
  }

  /// Every thin device of the pool with the end of its last mapped block; nil where nothing is mapped.
  private func findSizes(_ metadata: String, _ blockSectors: UInt64) throws(ServeError)
    -> [(id: UInt64, sectors: UInt64?)]
  {
    let device = try Self.open(metadata)
    do {
      let pool = try PoolMetadata.open(device)
      return try MetadataView(device, source: .current).deviceDetails().map { id, _ in
        let end = try pool.highestMapped(id).map {
          ($0 + 1).multipliedReportingOverflow(by: blockSectors)
        }
        return (
          id,
          end.map {
            $0.overflow ? VolumeSpec.sectorsMax : min($0.partialValue, VolumeSpec.sectorsMax)
          }
        )
      }
    } catch {
      throw ServeError(.damaged, "\(metadata): \(error)")
    }
  }

  private static func contents(_ path: String) throws(ServeError) -> String {
    let fd = Glibc.open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else {
      throw ServeError(errno, "cannot open \(path): \(String(cString: strerror(errno)))")
    }
    defer { close(fd) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65_536)
    while bytes.count <= 16 << 20 {
      let n = read(fd, &chunk, chunk.count)
      guard n > 0 else { break }
      bytes += chunk[..<n]
    }
    guard bytes.count <= 16 << 20, let text = String(validating: bytes, as: UTF8.self) else {
      throw ServeError(.request, "\(path) is no file of tables")
    }
    return text
  }
}
