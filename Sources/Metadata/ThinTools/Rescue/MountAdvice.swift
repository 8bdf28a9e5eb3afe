/// Commands that show what is in an image, without writing to it.
public enum MountAdvice {
  /// Options of mount(8) that keep a file system from replaying its journal, and the file system's name in
  /// `Recognition`.
  private static let options = [
    ("ext4", "ro,noload"), ("XFS", "ro,norecovery"), ("btrfs", "ro,rescue=nologreplay"),
    ("F2FS", "ro,norecovery"), ("NTFS", "ro"), ("FAT", "ro"), ("squashfs", "ro"), ("CD", "ro"),
  ]

  /// The options for what was recognised; nil if it is not mounted as a whole.
  static func mountOptions(_ recognition: Recognition?) -> String? {
    guard case .other(let name) = recognition else { return nil }
    return options.first { name.contains($0.0) }?.1
  }

  /// Commands for an image in a file or on a device.
  public static func commands(image path: String, isBlockDevice: Bool) -> [String] {
    let found = Recognizer.recognize(path)
    let quoted = shellQuoted(path)
    if let options = mountOptions(found) {
      return ["mount -o \(options)\(isBlockDevice ? "" : ",loop") \(quoted) /mnt"]
    }
    if isBlockDevice { return ["blkid -p \(quoted)", "mount -o ro,noload \(quoted) /mnt"] }
    let attach = "losetup --find --show --read-only --partscan \(quoted)"
    switch found {
    case .physicalVolume: return [attach, "pvs; lvchange -ay -K VG/LV"]
    case .other(let name) where name.contains("partition table"):
      return [attach, "mount -o ro,noload /dev/loopNpM /mnt"]
    default: return [attach, "mount -o ro,noload /dev/loopN /mnt"]
    }
  }

  /// Commands for an export of a server.
  /// - Parameter address: the server's socket, or its host and port.
  public static func commands(export name: String, socket: String) -> [String] {
    [
      "nbd-client -unix \(shellQuoted(socket)) -N \(shellQuoted(name)) /dev/nbd0 -readonly",
      "mount -o ro,noload /dev/nbd0 /mnt    (ext; XFS: ro,norecovery)",
      "or: qemu-nbd --read-only --connect=/dev/nbd0 "
        + shellQuoted("nbd+unix:///\(name)?socket=\(socket)"),
    ]
  }
}
