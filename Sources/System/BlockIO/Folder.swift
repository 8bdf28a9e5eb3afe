import Glibc

/// Lists folders.
public enum Folder {
  /// Names in a folder, unsorted; empty if it does not exist or cannot be read.
  public static func names(in path: String) -> [String] {
    unsafe opendir(path).map { unsafe names(of: $0) } ?? []
  }

  /// Names in an open folder, which is closed.
  static func names(of folder: OpaquePointer) -> [String] {
    defer { unsafe closedir(folder) }
    var names: [String] = []
    while let entry = unsafe readdir(folder) {
      let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) {
        unsafe $0.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}
