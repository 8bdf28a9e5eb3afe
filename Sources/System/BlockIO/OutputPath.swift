import CDMThin
import Glibc

/// The target of a path given as input or output. A link in the last component is followed. Names
/// below /proc/PID/fd, to which /dev/stdin and /dev/stdout lead, are descriptors rather than files.
public struct OutputPath: Sendable {
  /// The path with its last link followed.
  public let path: String
  /// The descriptor of this process to which the path leads, if any.
  public let ownDescriptor: Int32?
  /// Whether the path leads to a descriptor of any process.
  public let isDescriptor: Bool

  /// Follows `path`. Its target may be anything, or missing.
  public init(_ path: String) {
    var path = path
    for _ in 0..<40 {
      guard let target = Self.target(ofLink: path) else { break }
      let folder = Self.folder(of: path)
      if unsafe dmthin_is_proc(folder) != 0 {
        self.path = path
        isDescriptor = true
        ownDescriptor = Self.own(folder, name: Self.name(of: path))
        return
      }
      path = target.hasPrefix("/") ? target : "\(folder)/\(target)"
    }
    self.path = path
    isDescriptor = false
    ownDescriptor = nil
  }

  /// The folder of the last component of a path.
  static func folder(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  static func name(of path: String) -> String {
    path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
  }

  private static func target(ofLink path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let count = unsafe buffer.withUnsafeMutableBytes { bytes in
      let characters = unsafe bytes.bindMemory(to: CChar.self)
      return unsafe characters.baseAddress.map { unsafe readlink(path, $0, characters.count) } ?? -1
    }
    return count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : nil
  }

  private static func own(_ folder: String, name: String) -> Int32? {
    guard let real = unsafe realpath(folder, nil) else { return nil }
    defer { unsafe free(real) }
    let text = unsafe String(cString: real)
    guard text.hasPrefix("/proc/\(getpid())/"), text.hasSuffix("/fd") else { return nil }
    return Int32(name)
  }
}
