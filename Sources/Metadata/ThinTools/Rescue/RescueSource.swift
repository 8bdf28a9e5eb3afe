public import BlockIO
import Glibc
import ThinFormat

/// Opens a pool's metadata and data for reading, wherever they are.
public enum RescueSource {
  /// The metadata: a device or file, a part of one, or a file as `thin_metadata_pack` writes it, which
  /// is unpacked into a temporary file without a name.
  /// - Parameters:
  ///   - offset: where the metadata begins, in bytes.
  ///   - exclusive: whether to refuse one that is in use.
  ///   - onNotice: gets a line if a packed file is damaged, and only its beginning is used.
  /// - Throws: `system`, or `damaged` if nothing of a packed file can be used.
  public static func metadata(
    _ path: String, from offset: UInt64 = 0, exclusive: Bool, progress: Progress,
    onNotice: (String) -> Void = { _ in }
  ) throws(ToolError) -> any BlockDevice {
    if let packed = try packedFile(path) {
      defer { packed.file.close() }
      guard offset == 0 else {
        throw ToolError(
          .refused,
          "\(path) is packed metadata, which begins at byte 0: leave --metadata-offset out")
      }
      return try unpacked(packed.content, progress, onNotice)
    }
    return try window(path, from: offset, exclusive: exclusive).device
  }

  /// The data: a device or file, or a part of one, and the least that can be read of it.
  public static func data(_ path: String, from offset: UInt64 = 0, exclusive: Bool)
    throws(ToolError) -> (device: any BlockDevice, sectorBytes: Int)
  {
    try window(path, from: offset, exclusive: exclusive)
  }

  private static func window(_ path: String, from offset: UInt64, exclusive: Bool)
    throws(ToolError) -> (device: any BlockDevice, sectorBytes: Int)
  {
    do throws(BlockIOError) {
      let device = try FileDevice(path: path, access: .readOnly, exclusive: exclusive)
      let sector = device.sectorBytes
      return (offset == 0 ? device : try DeviceWindow(device, from: offset), sector)
    } catch {
      throw ToolError(error)
    }
  }

  private static func packedFile(_ path: String) throws(ToolError)
    -> (content: PackedFile, file: OpenFile)?
  {
    let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    // The error is that of opening it as a device.
    guard descriptor >= 0 else { return nil }
    let file = OpenFile(adopting: descriptor, path: path)
    var info = stat()
    var start = [UInt8](repeating: 0, count: 8)
    guard unsafe fstat(descriptor, &info) == 0, info.st_mode & S_IFMT == S_IFREG,
      unsafe pread(descriptor, &start, start.count, 0) == start.count,
      PackFormat.word(start[...]) == PackFormat.magic
    else {
      file.close()
      return nil
    }
    do throws(ToolError) {
      return (try PackedFile(file), file)
    } catch {
      file.close()
      throw error
    }
  }

  private static func unpacked(
    _ packed: PackedFile, _ progress: Progress, _ onNotice: (String) -> Void
  ) throws(ToolError) -> any BlockDevice {
    let blockBytes = UInt64(Limits.blockBytes)
    let file: OpenFile
    do throws(BlockIOError) { file = try TemporarySpace.open() } catch { throw ToolError(error) }
    let device = FileDevice(
      adopting: file.descriptor, path: file.path, byteCount: packed.blockCount * blockBytes)
    func write(_ bytes: UnsafeRawBufferPointer, _ block: UInt64) throws(BlockIOError) {
      do throws(BlockIOError) {
        try unsafe file.write(bytes, at: block * blockBytes)
      } catch {
        throw TemporarySpace.full(error)
      }
    }
    // The size is that of the device, also where its last blocks are zeros.
    let zeros = AlignedBuffer(count: Limits.blockBytes)
    if packed.blockCount > 0 {
      do throws(BlockIOError) {
        try unsafe write(UnsafeRawBufferPointer(zeros.bytes), packed.blockCount - 1)
      } catch {
        throw ToolError(error)
      }
    }
    do throws(ToolError) {
      try unsafe packed.forEachRun(progress: progress) { first, bytes throws(BlockIOError) in
        try unsafe write(bytes, first.rawValue)
      }
    } catch {
      guard case .damaged = error.cause, packed.storedCount > 0 else { throw error }
      onNotice("\(error.message); the \(packed.storedCount) blocks before that are used")
    }
    return device
  }
}
