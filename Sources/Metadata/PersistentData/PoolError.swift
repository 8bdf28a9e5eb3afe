public import BlockIO

/// Why an operation on a pool's metadata failed. The cases correspond to the kernel's error
/// numbers, with the place if it is known.
public enum PoolError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A block is unusable.
  case block(UInt64, BlockProblem)
  /// Writing or flushing failed; nothing more is written.
  case io(BlockIOError)
  /// There is no free metadata block (ENOSPC).
  case metadataFull
  /// There is no free data block (ENOSPC).
  case dataFull
  /// The key or device does not exist (ENODATA).
  case notFound
  /// It already exists (EEXIST).
  case exists
  /// It is in use (EBUSY).
  case busy
  /// The request is invalid (EINVAL).
  case invalid(String)
  /// The metadata contradicts itself.
  case inconsistent(String)
  /// An earlier operation failed: `abort` first.
  case failed
  /// A block is not in memory, where only what is there was asked for.
  case absent(UInt64)

  /// One line for users.
  public var description: String {
    switch self {
    case .block(let block, let problem): "block \(block): \(problem)"
    case .io(let error): "\(error)"
    case .metadataFull: "no free metadata block left: enlarge the metadata device"
    case .dataFull: "no free data block left: enlarge the data device"
    case .notFound: "no such device or mapping"
    case .exists: "the device already exists"
    case .busy: "the device or metadata snapshot is in use"
    case .invalid(let what): what
    case .inconsistent(let what): "the metadata contradicts itself: \(what)"
    case .absent(let block): "block \(block) is not in memory"
    case .failed: "an earlier write failed; abort to the last commit first"
    }
  }
}
