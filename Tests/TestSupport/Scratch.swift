import Glibc
import Simulation

/// A folder that is removed, with its content, when the object is freed.
public final class ScratchFolder {
  private let folder: TemporaryFolder
  /// The folder.
  public var path: String { folder.path }

  /// A new folder, in `base` where that is given.
  public init(in base: String? = nil) throws {
    folder = try TemporaryFolder("dmthin-test", in: base)
  }

  /// The name of a file in the folder.
  public func file(_ name: String) -> String { "\(path)/\(name)" }

  /// A file with `text`.
  public func file(_ name: String, text: String) throws -> String {
    try file(name, bytes: Array(text.utf8))
  }

  /// A file with `bytes`, extended to `size` bytes if that is given.
  public func file(_ name: String, bytes: [UInt8], size: UInt64? = nil) throws -> String {
    let path = file(name)
    let fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
    guard fd >= 0 else { throw MissingRequirement("cannot create \(path)") }
    defer { close(fd) }
    var done = 0
    while done < bytes.count {
      let n = bytes.withUnsafeBytes {
        write(fd, $0.baseAddress.map { $0 + done }, bytes.count - done)
      }
      guard n > 0 else { throw MissingRequirement("cannot write \(path)") }
      done += n
    }
    if let size { guard ftruncate(fd, off_t(size)) == 0 else { throw MissingRequirement(path) } }
    return path
  }

  /// A file of zeros that takes no space.
  public func zeros(_ name: String, size: UInt64) throws -> String {
    try file(name, bytes: [], size: size)
  }

  /// A copy of another file.
  public func copy(of original: String, as name: String, size: UInt64? = nil) throws -> String {
    try file(name, bytes: try contents(of: original), size: size)
  }
}

/// All bytes of a file.
public func contents(of path: String) throws -> [UInt8] {
  let fd = open(path, O_RDONLY | O_CLOEXEC)
  guard fd >= 0 else { throw MissingRequirement("cannot read \(path)") }
  defer { close(fd) }
  return contents(of: fd)
}

/// All bytes of an open file.
func contents(of fd: Int32) -> [UInt8] {
  let size = Int(lseek(fd, 0, SEEK_END))
  return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
    while count < size {
      let n = pread(fd, buffer.baseAddress.map { $0 + count }, size - count, off_t(count))
      if n <= 0 { break }
      count += n
    }
  }
}
