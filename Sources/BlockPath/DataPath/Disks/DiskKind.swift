public import BlockIO
import Glibc

/// A kind of disk, chosen by the scheme of a name. Each kind is registered by a line in `all`
/// (DiskKinds.swift), and named nowhere else.
public struct DiskKind: Sendable {
  /// The word before the colon.
  public let scheme: String
  /// The form of names, such as `memory:SIZE`.
  public let form: String
  /// What a disk of this kind is, for help.
  public let summary: String
  /// Finds the disk that the rest of a name means, without opening it.
  let find: @Sendable (_ rest: String) throws(BlockIOError) -> FoundDisk

  init(
    _ scheme: String, form: String, summary: String,
    find: @escaping @Sendable (_ rest: String) throws(BlockIOError) -> FoundDisk
  ) {
    self.scheme = scheme
    self.form = "\(scheme):\(form)"
    self.summary = summary
    self.find = find
  }

  /// The forms of all kinds, for help and messages.
  public static var forms: String { all.map(\.form).joined(separator: ", ") }
}

/// Distinguishes disks: names of the same disk have the same identity.
public enum DiskIdentity: Hashable, Sendable {
  /// A file or a block device.
  case file(FileIdentity)
  /// A disk of another kind, by a name.
  case name(String)
}

/// A disk that was found by its name and not opened yet.
public struct FoundDisk {
  /// The name in messages: the path of a file or block device.
  public let name: String
  /// Its identity.
  public let identity: DiskIdentity
  /// The path, if it is a file or a block device.
  public let path: String?
  /// The size in bytes of a disk that begins with zeros whenever it is opened; nil for a disk that keeps
  /// its content.
  public let blankByteCount: UInt64?
  private let opener: (_ readOnly: Bool, DiskContext) throws(BlockIOError) -> any Disk

  /// A file or block device.
  init(
    path: String, _ identity: FileIdentity,
    open: @escaping (_ readOnly: Bool, DiskContext) throws(BlockIOError) -> any Disk
  ) {
    name = path
    self.identity = .file(identity)
    self.path = path
    blankByteCount = nil
    opener = open
  }

  /// A disk that begins with zeros. `identity` is the same for all its names.
  init(
    name: String, identity: String, blankByteCount: UInt64,
    open: @escaping (_ readOnly: Bool, DiskContext) throws(BlockIOError) -> any Disk
  ) {
    self.name = name
    self.identity = .name(identity)
    path = nil
    self.blankByteCount = blankByteCount
    opener = open
  }

  /// Opens it.
  public func open(readOnly: Bool, in context: DiskContext) throws(BlockIOError) -> any Disk {
    try opener(readOnly, context)
  }
}

/// Makes disks of names: the one place for tables, options and all other callers.
public enum DiskResolver {
  /// Finds the disk that a name means, without opening it.
  /// - Throws: `BlockIOError`, with `.find` if there is no such disk, or no such kind.
  public static func find(_ text: String) throws(BlockIOError) -> FoundDisk {
    let name = DiskName(text)
    guard let scheme = name.scheme else { return try DiskKind.file.find(name.rest) }
    guard let kind = DiskKind.all.first(where: { $0.scheme == scheme }) else {
      throw BlockIOError(
        .find, path: text, code: ENODEV,
        detail: "no kind of disk is called \(scheme); known are \(DiskKind.forms); "
          + "for a file of that name give ./\(text)")
    }
    return try kind.find(name.rest)
  }

  /// Opens the disk that a name means.
  public static func open(_ text: String, readOnly: Bool, in context: DiskContext)
    throws(BlockIOError) -> any Disk
  { try find(text).open(readOnly: readOnly, in: context) }

  /// The size in bytes in the rest of a name, and the word after a slash that distinguishes disks of one
  /// size: `64m`, `64m/NAME`.
  static func size(_ rest: String, of scheme: String) throws(BlockIOError) -> (UInt64, word: String)
  {
    let words = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
    do throws(DeviceSize.Malformed) {
      let bytes = try DeviceSize.sectors(words[0]) * 512
      if words.count == 1 || !words[1].isEmpty {
        return (bytes, words.count == 1 ? "" : "/\(words[1])")
      }
    } catch {
      throw BlockIOError(
        .find, path: "\(scheme):\(rest)", code: EINVAL,
        detail: "a size such as 64m is expected after \(scheme):. \(error.description)")
    }
    throw BlockIOError(
      .find, path: "\(scheme):\(rest)", code: EINVAL, detail: "a word is expected after the slash")
  }
}
