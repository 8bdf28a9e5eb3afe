import Glibc

/// The one way in which tools open a device or file whose metadata they write: for themselves alone, and
/// never what they read. It has to be there; its size is the metadata's.
public enum MetadataOutput {
  /// Opens `path` for reading and writing.
  /// - Parameter inputs: paths of what the metadata is made of.
  /// - Throws: `OutputError`; `busy` where it is mounted, held by device-mapper, a file that is locked or in
  ///   use as a loop device, or opened exclusively by another program.
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
