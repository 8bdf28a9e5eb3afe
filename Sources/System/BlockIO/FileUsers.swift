import CDMThin
import Glibc

/// Finds the users of a file or device, as far as the system shows them. For messages only: it
/// reads every process in /proc, and the result may be outdated.
public enum FileUsers {
  /// The holder of a lock on the file of `descriptor`, like `dmthin (process 4711)`; nil if
  /// unknown.
  public static func lockHolder(of descriptor: Int32) -> String? {
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0,
      let locks = try? WholeFile.bytes(at: "/proc/locks", upTo: 1 << 20)
    else { return nil }
    let identity = FileIdentity(info)
    // "1: FLOCK  ADVISORY  WRITE 4711 fd:00:12345 0 EOF". The device may differ from that of stat,
    // for example on overlayfs, so the process is checked.
    for line in String(decoding: locks, as: UTF8.self).split(separator: "\n") {
      let words = line.split(separator: " ")
      guard words.count > 5, words[5].hasSuffix(":\(info.st_ino)"), let process = Int32(words[4]),
        process == getpid() || hasOpen(process, identity)
      else { continue }
      return name(ofProcess: process)
    }
    return opener(of: identity)
  }

  /// What prevents a block device from being opened exclusively, like `it is mounted on /mnt`; nil
  /// if unknown.
  public static func user(ofDevice identity: FileIdentity) -> String? {
    guard identity.isBlockDevice else { return nil }
    let folder = identity.systemFolder
    let holders = Folder.names(in: "\(folder)/holders").sorted().map { holder in
      WholeFile.systemText("\(folder)/holders/\(holder)/dm/name") ?? holder
    }
    if !holders.isEmpty { return "part of \(holders.joined(separator: ", "))" }
    if let place = mountPoint(of: identity) { return "mounted on \(place)" }
    return opener(of: identity).map { "opened by \($0)" }
  }

  /// What uses a loop device, like `as /dev/loop0, mounted on /mnt`; nil if nothing does.
  static func holder(ofLoop loop: FileIdentity) -> String? {
    let name =
      "/dev/"
      + (realpath(loop.systemFolder).map { String($0.split(separator: "/").last ?? "") } ?? "loop")
    if let user = user(ofDevice: loop) { return "as \(name), \(user)" }
    let probe = unsafe open(name, O_RDONLY | O_CLOEXEC | O_EXCL)
    guard probe < 0 else {
      close(probe)
      return nil
    }
    return errno == EBUSY ? "as \(name)" : nil
  }

  private static func realpath(_ path: String) -> String? {
    guard let real = unsafe Glibc.realpath(path, nil) else { return nil }
    defer { unsafe free(real) }
    return unsafe String(cString: real)
  }

  private static func mountPoint(of identity: FileIdentity) -> String? {
    let number = identity.systemFolder.split(separator: "/").last ?? ""
    guard let bytes = try? WholeFile.bytes(at: "/proc/self/mountinfo", upTo: 1 << 20) else {
      return nil
    }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count > 4, words[2] == number { return String(words[4]) }
    }
    return nil
  }

  /// Another process that has the file or device open.
  private static func opener(of identity: FileIdentity) -> String? {
    for folder in Folder.names(in: "/proc") {
      guard let process = Int32(folder), process != getpid(), hasOpen(process, identity) else {
        continue
      }
      return name(ofProcess: process)
    }
    return nil
  }

  private static func hasOpen(_ process: Int32, _ identity: FileIdentity) -> Bool {
    Folder.names(in: "/proc/\(process)/fd").contains {
      FileIdentity(path: "/proc/\(process)/fd/\($0)") == identity
    }
  }

  private static func name(ofProcess process: Int32) -> String {
    // A process chooses its own name, which is printed on a terminal.
    let name = (WholeFile.systemText("/proc/\(process)/comm") ?? "").unicodeScalars.map {
      $0.value < 0x20 || (0x7f...0x9f).contains($0.value) ? "?" : String($0)
    }.joined()
    return name.isEmpty ? "process \(process)" : "\(name) (process \(process))"
  }
}
