public import BlockIO

/// Why an operation on a pool's metadata failed. The cases are the kernel's error numbers, with
/// the place where one is known.
public enum PoolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A block cannot be used.
  case block(UInt64, BlockProblem)
  /// Writing or flushing failed; nothing more is written.
  case io(BlockIOError)
  /// No free metadata block (ENOSPC).
  case metadataFull
  /// No free data block (ENOSPC).
  case dataFull
  /// There is no such key or device (ENODATA).
  case notFound
  /// It exists already (EEXIST).
  case exists
  /// It is in use (EBUSY).
  case busy
  /// The request makes no sense (EINVAL).
  case invalid(String)
  /// The metadata contradicts itself.
  case inconsistent(String)
  /// An earlier failure latched: abort to the last commit first.
  case failed
  /// A block is not in memory, where only what is there was asked for.
  case absent(UInt64)

  /// One line for people.
  public var description: String {
    switch self {
    case .block(let block, let problem): "block \(block): \(problem)"
    case .io(let error): "\(error)"
    case .metadataFull: "no free metadata block left: enlarge the metadata device"
    case .dataFull: "no free data block left: enlarge the data device"
    case .notFound: "no such device or mapping"
    case .exists: "the device exists already"
    case .busy: "the device or metadata snapshot is in use"
    case .invalid(let what): what
    case .inconsistent(let what): "the metadata contradicts itself: \(what)"
    case .absent(let block): "block \(block) is not in memory"
    case .failed: "an earlier write failed; abort to the last commit first"
    }
  }
}
