/// Where a request's data is in memory: in one piece, or in several that lie apart, in the order of the data.
///
/// It is the place where the data begins; how much there is says the request's `byteCount`. Each piece is
/// aligned and has the length that a request in one piece would need. The list of pieces is its owner's, and
/// stays as it is until the request is done: parts of the request refer to it, so that none of them needs
/// memory for a list of its own.
@safe public struct RequestMemory {
  /// A piece of memory.
  @safe public struct Piece {
    /// Its first byte.
    public var start: UnsafeMutableRawPointer
    /// Bytes.
    public var byteCount: Int

    /// A piece.
    public init(start: UnsafeMutableRawPointer, byteCount: Int) {
      unsafe self.start = start
      self.byteCount = byteCount
    }
  }

  /// The most pieces that the data of one request may have.
  public static var piecesMax: Int { 128 }

  /// The first byte; nil where a request has no data.
  @usableFromInline var start: UnsafeMutableRawPointer?
  /// The pieces behind the first one; nil where that is the only one.
  @usableFromInline var rest: UnsafePointer<Piece>?
  /// Bytes of the first piece, where there are more.
  @usableFromInline var startBytes: UInt32 = 0

  /// One piece, or no data.
  @inlinable public init(_ start: UnsafeMutableRawPointer? = nil) {
    unsafe self.start = start
  }

  /// The first of `pieces` and those behind it, as many as the request's `byteCount` needs: at least one, and
  /// at most `piecesMax`.
  public init(pieces: UnsafePointer<Piece>) {
    unsafe precondition(pieces.pointee.byteCount >= 0 && pieces.pointee.byteCount < 1 << 32)
    unsafe start = pieces.pointee.start
    startBytes = unsafe UInt32(pieces.pointee.byteCount)
    unsafe rest = pieces + 1
  }

  /// Whether it is certain that there is one piece.
  @inlinable public var isOnePiece: Bool { unsafe rest == nil }

  /// What is left behind the first `bytes`, of which there are at least so many.
  @inlinable public func advanced(by bytes: Int) -> RequestMemory {
    unsafe rest == nil ? RequestMemory(start.map { unsafe $0 + bytes }) : behind(bytes)
  }

  @usableFromInline func behind(_ bytes: Int) -> RequestMemory {
    var (result, left) = (self, bytes)
    // It may be at the end of the last piece, behind which there is none.
    while left > Int(result.startBytes), let next = unsafe result.rest {
      left -= Int(result.startBytes)
      result = unsafe RequestMemory(pieces: next)
    }
    unsafe result.start = result.start.map { unsafe $0 + left }
    result.startBytes -= UInt32(left)
    return result
  }

  /// Calls `body` with each piece of the first `byteCount` bytes.
  public func forEachPiece(_ byteCount: Int, _ body: (UnsafeMutableRawBufferPointer) -> Void) {
    guard var start = unsafe start else { return }
    guard var next = unsafe rest else {
      return unsafe body(UnsafeMutableRawBufferPointer(start: start, count: byteCount))
    }
    var (left, bytes) = (byteCount, Int(startBytes))
    while true {
      let count = min(bytes, left)
      if count > 0 { unsafe body(UnsafeMutableRawBufferPointer(start: start, count: count)) }
      left -= count
      guard left > 0 else { return }
      unsafe (start, bytes) = (next.pointee.start, next.pointee.byteCount)
      unsafe next += 1
    }
  }

  /// The number of pieces of the first `byteCount` bytes.
  public func pieceCount(_ byteCount: Int) -> Int {
    if isOnePiece { return 1 }
    var count = 0
    unsafe forEachPiece(byteCount) { _ in count += 1 }
    return count
  }

  /// The first piece of the first `byteCount` bytes, of which there is at least one; empty without data.
  public func firstPiece(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
    var first = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
    unsafe forEachPiece(byteCount) { if unsafe first.isEmpty { unsafe first = $0 } }
    return unsafe first
  }

  // MARK: - Contents

  /// Makes the first `byteCount` bytes zeros.
  public func zero(_ byteCount: Int) {
    unsafe forEachPiece(byteCount) { unsafe $0.initializeMemory(as: UInt8.self, repeating: 0) }
  }

  /// Copies the first `byteCount` bytes to a place of so many.
  public func copy(to place: UnsafeMutableRawPointer, _ byteCount: Int) {
    var place = unsafe place
    unsafe forEachPiece(byteCount) { piece in
      if let from = piece.baseAddress {
        unsafe place.copyMemory(from: from, byteCount: piece.count)
      }
      unsafe place += piece.count
    }
  }

  /// Copies `byteCount` bytes from a place to the first ones here.
  public func copy(from place: UnsafeRawPointer, _ byteCount: Int) {
    var place = unsafe place
    unsafe forEachPiece(byteCount) { piece in
      unsafe piece.baseAddress?.copyMemory(from: place, byteCount: piece.count)
      unsafe place += piece.count
    }
  }
}
