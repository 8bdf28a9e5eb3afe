import BlockIO
import Glibc
import PersistentData
import ThinFormat

extension PoolError {
  /// Lines for people: what was found where in the metadata at `path`, and what to do.
  func explanation(_ path: String) -> [String] {
    switch self {
    case .block(_, .io), .io:
      [
        "metadata \(path): \(self)",
        "the device or file failed: the system's log (dmesg) may say why",
      ]
    case .block, .inconsistent:
      [
        "metadata \(path): \(self)",
        "the metadata is damaged: list all of it with: thin_check \(path); what can be read is served "
          + "with: dmthin serve --read-only; it is saved with: thin_dump --repair \(path)",
      ]
    default: ["metadata \(path): \(self)"]
    }
  }

  /// The same of thin device `id`.
  func explanation(_ path: String, thin id: UInt64) -> [String] {
    self == .notFound
      ? ["the pool has no thin device \(id); list what it has with: thin_ls \(path)"]
      : explanation(path)
  }

  /// The system's number for it.
  var systemCode: Int32 {
    switch self {
    case .block(_, let problem):
      switch problem {
      case .format(let fault): fault.systemCode
      case .io(let error): error.code == 0 ? EIO : error.code
      default: EIO
      }
    case .io(let error): error.code == 0 ? EIO : error.code
    case .metadataFull, .dataFull: ENOSPC
    case .notFound: ENODATA
    case .exists: EEXIST
    case .busy: EBUSY
    case .invalid: EINVAL
    case .inconsistent: EILSEQ
    case .failed: EINVAL
    case .absent: EAGAIN
    }
  }
}

extension FormatError {
  fileprivate var systemCode: Int32 {
    switch self {
    case .checksum, .wrongKind, .magic: EILSEQ
    case .blockNumber: ENOTBLK
    case .field, .keyOrder: EINVAL
    }
  }
}

/// Whether an error number says that there is no room where a file lies: its file system is full, its
/// user's quota is used up, or a limit of the size of files is reached.
func isNoRoom(_ code: Int32) -> Bool { code == ENOSPC || code == EDQUOT || code == EFBIG }
