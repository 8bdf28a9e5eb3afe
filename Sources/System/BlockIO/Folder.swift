import Glibc

/// Lists folders.
public enum Folder {
  /// Names in a folder, unsorted; empty if it does not exist or cannot be read.
  public static func names(in path: String) -> [String] {
    opendir(path).map { names(of: $0) } ?? []
  }

  /// Names in an open folder, which is closed.
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
