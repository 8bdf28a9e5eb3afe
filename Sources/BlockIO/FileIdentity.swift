import CDMThin
public import Glibc

/// What a path leads to: two paths of the same file or device have the same identity, be they links
/// of either kind, bind mounts, or other nodes of one device.
public struct FileIdentity: Hashable, Sendable {
  /// Whether it is a block device rather than anything else.
  public let isBlockDevice: Bool
  /// The file system of a file, or the number of a block device.
  private let device: UInt64
  /// The file; 0 for a block device.
  private let inode: UInt64

  /// What `path` leads to, links followed; nil where that is nothing.
  public init?(path: String) {
    var info = stat()
    guard stat(path, &info) == 0 else { return nil }
    self.init(info)
  }

  /// What an open descriptor is of.
  public init?(descriptor: Int32) {
    var info = stat()
    guard fstat(descriptor, &info) == 0 else { return nil }
    self.init(info)
  }

  /// The block device that has a number.
  public init(blockDevice major: UInt32, _ minor: UInt32) {
    self.init(blockDevice: UInt64(gnu_dev_makedev(major, minor)))
  }

  /// What `info` was found of.
  public init(_ info: stat) {
    isBlockDevice = info.st_mode & S_IFMT == S_IFBLK
    device = UInt64(isBlockDevice ? info.st_rdev : info.st_dev)
    inode = isBlockDevice ? 0 : UInt64(info.st_ino)
  }

  private init(blockDevice number: UInt64) {
    isBlockDevice = true
    device = number
    inode = 0
  }

  /// Whether writing one changes the other: they are the same, or one is made of the other, as a
  /// partition is of its disk, a device of device-mapper of those below it, and a loop device of its file.
  public func overlaps(_ other: FileIdentity) -> Bool {
    self == other || everythingBelow.contains(other) || other.everythingBelow.contains(self)
  }

  /// A name by which it is found again, after a boot too where the system has one for it: by the uuid of a
  /// device of device-mapper, else by the number of a device, or by file system and file. No slash is in it.
  public var lastingName: String {
    guard isBlockDevice else { return "file-\(device)-\(inode)" }
    let uuid = WholeFile.systemText("\(systemFolder)/dm/uuid") ?? ""
    guard uuid.isEmpty else {
      // Anything else as its number.
      return "dm-"
        + uuid.utf8.map { byte in
          let isPlain =
            (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte)
            || (0x61...0x7a).contains(byte) || byte == UInt8(ascii: "-")
          return isPlain ? String(UnicodeScalar(byte)) : "_\(byte)_"
        }.joined()
    }
    return "device-\(gnu_dev_major(UInt(device))):\(gnu_dev_minor(UInt(device)))"
  }

  /// The folder of a block device in sysfs.
  var systemFolder: String {
    "/sys/dev/block/\(gnu_dev_major(UInt(device))):\(gnu_dev_minor(UInt(device)))"
  }

  /// What a block device is made of, as far as sysfs tells; itself too.
  private var everythingBelow: Set<FileIdentity> {
    var found: Set<FileIdentity> = [self]
    var waiting = isBlockDevice ? [self] : []
    while let next = waiting.popLast() {
      for below in next.below where found.insert(below).inserted && below.isBlockDevice {
        waiting.append(below)
      }
    }
    return found
  }

  private var below: [FileIdentity] {
    let folder = systemFolder
    var found = Folder.names(in: "\(folder)/slaves").compactMap {
      Self.numbered(by: "\(folder)/slaves/\($0)/dev")
    }
    if WholeFile.systemText("\(folder)/partition") != nil,
      let disk = Self.numbered(by: "\(folder)/../dev")
    {
      found.append(disk)
    }
    if let file = WholeFile.systemText("\(folder)/loop/backing_file"),
      let identity = FileIdentity(path: file)
    {
      found.append(identity)
    }
    return found
  }

  /// The block device whose number a file of sysfs has, like `253:4`.
  private static func numbered(by file: String) -> FileIdentity? {
    let numbers = (WholeFile.systemText(file) ?? "").split(separator: ":").map { UInt32($0) }
    guard numbers.count == 2, let major = numbers[0], let minor = numbers[1] else { return nil }
    return FileIdentity(blockDevice: UInt64(gnu_dev_makedev(major, minor)))
  }

  /// Loop devices that are made of this file.
  var loopDevices: [FileIdentity] {
    guard !isBlockDevice else { return [] }
    return Folder.names(in: "/sys/block").filter { $0.hasPrefix("loop") }.compactMap { name in
      guard let file = WholeFile.systemText("/sys/block/\(name)/loop/backing_file"),
        FileIdentity(path: file) == self
      else { return nil }
      return Self.numbered(by: "/sys/block/\(name)/dev")
    }
  }
}
