import Glibc

/// What there is in folders of a file system.
public enum Folder {
  /// Names of what a folder has, in no order; none where there is no such folder, or it cannot be read.
  public static func names(in path: String) -> [String] {
    opendir(path).map { names(of: $0) } ?? []
  }

  /// Names of what an open folder has, which is closed.
  static func names(of folder: OpaquePointer) -> [String] {
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}
