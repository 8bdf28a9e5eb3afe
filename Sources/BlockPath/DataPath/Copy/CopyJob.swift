/// Bytes of a destination, from an offset on.
public struct CopyPlace {
  /// Where requests go.
  public let destination: BlockDestination
  /// First byte.
  public let offset: UInt64

  /// The bytes of `destination` from `offset` on.
  public init(_ destination: BlockDestination, at offset: UInt64) {
    self.destination = destination
    self.offset = offset
  }
}

/// A copy of bytes to one or several places, which a `CopyEngine` makes. Users subclass it, override
/// `ended`, and begin it once.
///
/// It is made in pieces, several of them at a time, in any order. A place whose write fails gets no more
/// pieces, and the others go on; after a failed read nothing more is begun.
open class CopyJob {
  /// What the places get.
  public enum Content {
    /// The `count` bytes from a place on, and zeros thereafter.
    case bytes(CopyPlace, count: UInt64)
    /// Zeros.
    case zeros
    /// Nothing: what they have already becomes durable.
    case flush
  }

  /// What the places get.
  public let content: Content
  /// The number of bytes that each place gets; 0 for a flush.
  public let byteCount: UInt64
  /// The places.
  public let places: [CopyPlace]
  /// The limits on a copy for which no client waits; nil for one that a client waits for.
  public let pace: CopyPace?
  /// Whether `fill` changes what is written.
  public let fills: Bool

  /// The error number of the first read that failed, or 0.
  public private(set) var readError: Int32 = 0
  /// For each place, the error number of its first request that failed, or 0. Empty while there is none.
  public private(set) var writeErrors: [Int32] = []
  /// The first error number of all, or 0.
  public private(set) var error: Int32 = 0

  /// Bytes of which the pieces were begun.
  var begun: UInt64 = 0
  /// Pieces that are under way.
  var pieceCount = 0
  /// It has ended.
  var isOver = false
  /// The engine has it in a list of jobs that wait.
  var isWaiting = false

  /// A copy of `byteCount` bytes, which is a multiple of the places' logical blocks.
  public init(
    _ content: Content, byteCount: UInt64, to places: [CopyPlace], pace: CopyPace? = nil,
    fills: Bool = false
  ) {
    self.content = content
    self.byteCount = byteCount
    self.places = places
    self.pace = pace
    self.fills = fills
  }

  /// Puts other bytes into a piece that is about to be written: `memory` has those of `range`, counted from
  /// the start of the copy. Called once for each byte, if the job fills in.
  open func fill(_ memory: UnsafeMutableRawPointer, _ range: Range<UInt64>) {}

  /// All pieces are done. Called from the loop, never from within `begin`.
  open func ended() {}

  // MARK: - For the engine

  /// Whether no more pieces are to be begun.
  var isAllBegun: Bool {
    begun == byteCount || readError != 0 || (error != 0 && places.indices.allSatisfy(hasFailed))
  }

  func hasFailed(_ place: Int) -> Bool { !writeErrors.isEmpty && writeErrors[place] != 0 }

  func readFailed(_ code: Int32) {
    if readError == 0 { readError = code }
    if error == 0 { error = code }
  }

  func writeFailed(_ place: Int, _ code: Int32) {
    if writeErrors.isEmpty { writeErrors = [Int32](repeating: 0, count: places.count) }
    if writeErrors[place] == 0 { writeErrors[place] = code }
    if error == 0 { error = code }
  }
}
