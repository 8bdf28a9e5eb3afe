import BlockIO
import CDMThin
import Glibc
import ThinFormat

/// A ticket records that metadata was sound and complete when a program closed it. If the metadata
/// is unchanged since, it need not be checked again. A ticket is used once: it is removed before it
/// is trusted, so that a later use of the metadata finds one only if the use before it ended well.
///
/// Superblocks of different states can be equal, so a ticket also has the system's record of
/// changes: the times of a file, or the number of writes to a block device and its instance. If the
/// system has no such record, no ticket is written.
public struct CleanTickets: Sendable {
  /// The identity of metadata.
  private struct Identity {
    /// The file name of its ticket.
    var key: String
    /// The beginning of the ticket.
    var text: String
    /// The path of the file that it is about, if there is one: the last line of the ticket.
    var path: String?
  }

  private static let bytesMax = 8192
  /// How long to keep the ticket of a missing file, whose file system may not be mounted.
  private static let missingSecondsMax = 7 * 86_400
  /// How long to keep any ticket; a check takes only seconds.
  private static let secondsMax = 180 * 86_400
  private let path: String

  /// Tickets in a folder, which is created on first use.
  public init(folder: String) { path = folder }

  /// The default folder of tickets (`StateFolder`).
  public static var usualFolder: String? {
    StateFolder.usual("tickets", variable: "DMTHIN_TICKETS")
  }

  /// Uses up the ticket of open metadata.
  /// - Returns: whether there was a ticket, it is removed, and the metadata matches it. False on
  ///   any doubt or error.
  public func redeem(_ descriptor: Int32) -> Bool {
    guard let identity = Self.identity(descriptor), let folder = try? TrustedFolder.own(path),
      let file = try? folder.openFile(identity.key, O_RDONLY)
    else { return false }
    defer { close(file) }
    var info = stat()
    // Another name for the ticket could be in another folder.
    guard unsafe fstat(file, &info) == 0, info.st_nlink == 1 else { return false }
    let bytes = try? WholeFile.bytes(of: file, path: path, upTo: Self.bytesMax)
    // The removal must be durable: the ticket must not reappear after a power cut.
    let isGone = folder.remove(identity.key) && folder.sync()
    return isGone && bytes?.starts(with: identity.text.utf8) == true
  }

  /// Writes the ticket of open metadata that is sound and durable, and will not be written to
  /// again. The caller must still hold it exclusively.
  /// - Returns: whether a ticket was written.
  @discardableResult
  public func issue(_ descriptor: Int32) -> Bool {
    guard let identity = Self.identity(descriptor) else { return false }
    do throws(TrustedFolder.Fault) {
      let place = identity.path.map { "path \($0)\n" } ?? ""
      try TrustedFolder.made(path).replace(identity.key, with: identity.text + place)
      return true
    } catch {
      return false
    }
  }

  /// Removes tickets that are useless: of block devices from before this boot, or that are gone; of
  /// files that have been missing or replaced for a week; tickets older than half a year; and
  /// incomplete ones. Other files in the folder stay.
  /// - Parameter now: seconds since 1970; nil for the system's clock.
  /// - Returns: the number removed.
  @discardableResult
  public func clear(now: Int? = nil) -> Int {
    guard let folder = try? TrustedFolder.own(path), let names = try? folder.names() else {
      return 0
    }
    let boot = WholeFile.systemText("/proc/sys/kernel/random/boot_id")
    let now = now ?? time(nil)
    var count = 0
    for name in names where ["file-", "device-", "dm-"].contains(where: name.hasPrefix) {
      guard isUseless(name, in: folder, now: now, boot: boot) else { continue }
      if folder.remove(name) { count += 1 }
    }
    return count
  }

  private func isUseless(_ name: String, in folder: TrustedFolder, now: Int, boot: String?) -> Bool
  {
    guard let info = folder.status(name), info.st_mode & S_IFMT == S_IFREG else { return false }
    let age = now - info.st_mtim.tv_sec
    if age > Self.secondsMax { return true }
    // Another server may be writing it.
    if name.hasSuffix(TrustedFolder.unfinishedSuffix) { return age > 3600 }
    guard let file = try? folder.openFile(name, O_RDONLY) else { return false }
    defer { close(file) }
    guard let bytes = try? WholeFile.bytes(of: file, path: path, upTo: Self.bytesMax) else {
      return false
    }
    var values: [Substring: Substring] = [:]
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      guard let blank = line.firstIndex(of: " ") else { continue }
      values[line[..<blank]] = line[line.index(after: blank)...]
    }
    guard name.hasPrefix("file-") else {
      // The boot and the instance come first.
      let words = values["changes"]?.split(separator: " ") ?? []
      guard words.count > 1, let boot else { return false }
      if words[0] != boot { return true }
      guard name.hasPrefix("device-") else { return false }
      let number = name.dropFirst("device-".count)
      return WholeFile.systemText("/sys/dev/block/\(number)/diskseq") != String(words[1])
    }
    guard age > Self.missingSecondsMax, let path = values["path"] else { return false }
    var found = stat()
    return unsafe stat(String(path), &found) != 0 || name != FileIdentity(found).lastingName
  }

  private static func identity(_ descriptor: Int32) -> Identity? {
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0, let digest = superblockDigest(descriptor) else {
      return nil
    }
    let changes: String
    var path: String?
    var bytes = UInt64(max(0, info.st_size))
    if info.st_mode & S_IFMT == S_IFBLK {
      let number = "\(gnu_dev_major(info.st_rdev)):\(gnu_dev_minor(info.st_rdev))"
      guard unsafe dmthin_block_device_bytes(descriptor, &bytes) == 0, let writes = writes(number)
      else { return nil }
      changes = writes
    } else {
      path = openPath(descriptor)
      changes = [info.st_mtim, info.st_ctim].map { "\($0.tv_sec).\($0.tv_nsec)" }
        .joined(separator: " ")
    }
    let text = "clean metadata 1\nsuperblock \(digest)\nbytes \(bytes)\nchanges \(changes)\n"
    return Identity(key: FileIdentity(info).lastingName, text: text, path: path)
  }

  /// The path of an open file, if it fits on a line.
  private static func openPath(_ descriptor: Int32) -> String? {
    var bytes = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = unsafe readlink("/proc/self/fd/\(descriptor)", &bytes, bytes.count)
    guard count > 0, count < bytes.count, bytes[0] == CChar(UInt8(ascii: "/")) else { return nil }
    let path = String(
      validating: bytes[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return path.flatMap { $0.utf8.allSatisfy { $0 >= 32 && $0 != 127 } ? $0 : nil }
  }

  /// A record of the writes to a block device: this boot, this instance of the device, and its
  /// numbers of writes and discards. Nil if the system does not provide it.
  private static func writes(_ number: String) -> String? {
    guard let boot = WholeFile.systemText("/proc/sys/kernel/random/boot_id"),
      let instance = WholeFile.systemText("/sys/dev/block/\(number)/diskseq"),
      let statistics = WholeFile.systemText("/sys/dev/block/\(number)/stat")
    else { return nil }
    let words = statistics.split(separator: " ")
    guard words.count >= 15 else { return nil }
    return ([boot, instance] + [4, 6, 11, 13].map { String(words[$0]) }).joined(separator: " ")
  }

  /// A digest of the first metadata block.
  private static func superblockDigest(_ descriptor: Int32) -> UInt64? {
    let buffer = AlignedBuffer(count: Limits.blockBytes)
    guard
      unsafe pread(descriptor, buffer.bytes.baseAddress, Limits.blockBytes, 0) == Limits.blockBytes
    else { return nil }
    return unsafe Digest(buffer.bytes).value
  }
}
