import Glibc

/// Opens a device or file whose metadata a tool writes: exclusively, and never one of its inputs.
/// It must exist; its size is that of the metadata.
public enum MetadataOutput {
  /// Opens `path` for reading and writing.
  /// - Parameter inputs: paths of the tool's inputs.
  /// - Throws: `OutputError`; `busy` if it is mounted, held by device-mapper, a file that is locked
  ///   or in use by a loop device, or opened exclusively by another program.
  public static func open(_ path: String, reading inputs: [String] = []) throws(OutputError)
    -> FileDevice
  {
    if let identity = FileIdentity(path: path) {
      try OutputError.requireOther(identity, path, inputs)
    }
    do throws(BlockIOError) {
      return try FileDevice(path: path, access: .readWrite, exclusive: true)
    } catch {
      throw OutputError(error)
    }
  }
}
