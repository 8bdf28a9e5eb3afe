import CDMThin
public import Glibc

/// The identity of a file or device: paths of the same file or device have the same identity,
/// through links of either kind, bind mounts, or several nodes of one device.
public struct FileIdentity: Hashable, Sendable {
  /// Whether it is a block device.
  public let isBlockDevice: Bool
  /// The file system of a file, or the number of a block device.
  private let device: UInt64
  /// The file; 0 for a block device.
  private let inode: UInt64

  /// The identity of the target of `path`, with links followed; nil if it does not exist.
  public init?(path: String) {
    var info = stat()
    guard unsafe stat(path, &info) == 0 else { return nil }
    self.init(info)
  }

  /// The identity of an open descriptor.
  public init?(descriptor: Int32) {
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else { return nil }
    self.init(info)
  }

  /// The block device with this number.
  public init(blockDevice major: UInt32, _ minor: UInt32) {
    self.init(blockDevice: UInt64(gnu_dev_makedev(major, minor)))
  }

  /// The identity in the result of stat(2).
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

  /// Whether writing to one changes the other: they are the same, or one is on top of the other,
  /// like a partition on its disk, a device-mapper device on its lower devices, and a loop device
  /// on its file.
  public func overlaps(_ other: FileIdentity) -> Bool {
    self == other || everythingBelow.contains(other) || other.everythingBelow.contains(self)
  }

  /// A name by which it is found again, even after a reboot if possible: from the uuid of a
  /// device-mapper device, otherwise from the number of a device, or from file system and inode of
  /// a file. Contains no slash.
  public var lastingName: String {
    guard isBlockDevice else { return "file-\(device)-\(inode)" }
    let uuid = WholeFile.systemText("\(systemFolder)/dm/uuid") ?? ""
    guard uuid.isEmpty else {
      // Devices of other kinds use their number.
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

  /// The number of a block device; nil for a file.
  public var number: (major: UInt32, minor: UInt32)? {
    isBlockDevice ? (gnu_dev_major(UInt(device)), gnu_dev_minor(UInt(device))) : nil
  }

  /// The folder of a block device in sysfs.
  var systemFolder: String {
    "/sys/dev/block/\(gnu_dev_major(UInt(device))):\(gnu_dev_minor(UInt(device)))"
  }

  /// All devices below a block device, as far as sysfs lists them, and the device itself.
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

  /// The block device whose number is in a file of sysfs, like `253:4`.
  private static func numbered(by file: String) -> FileIdentity? {
    let numbers = (WholeFile.systemText(file) ?? "").split(separator: ":").map { UInt32($0) }
    guard numbers.count == 2, let major = numbers[0], let minor = numbers[1] else { return nil }
    return FileIdentity(blockDevice: UInt64(gnu_dev_makedev(major, minor)))
  }

  /// The loop devices on this file.
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
