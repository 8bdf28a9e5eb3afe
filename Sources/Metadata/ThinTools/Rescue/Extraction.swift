public import BlockIO
import CDMThin
import Glibc

/// Where the bytes of an extraction go. Beyond what is written and zeroed, a new one reads as zeros.
public protocol ExtractionOutput: AnyObject {
  /// Writes a piece.
  func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(BlockIOError)
  /// Has a range read as zeros, if what was there before does not.
  func zero(_ range: Range<UInt64>) throws(BlockIOError)
  /// Returns once everything written is durable.
  func flush() throws(BlockIOError)
}

extension ResumableOutput: ExtractionOutput {}

/// What an image will have.
public struct ExtractionPlan: Equatable, Sendable {
  /// Size of the image in bytes.
  public var byteCount: UInt64
  /// Bytes to be read from the data device.
  public var mappedBytes: UInt64 = 0
  /// Bytes to be read from the external origin.
  public var originBytes: UInt64 = 0
  /// Bytes that are lost with metadata.
  public var lostBytes: UInt64 = 0
  /// Bytes that are mapped beyond the end of the data device.
  public var beyondBytes: UInt64 = 0
  /// Ranges of the image that are lost, the first thousand.
  public var lost: [RescueExtent] = []
  /// A digest of where every byte comes from.
  public var digest: UInt64 { places.value }
  private var places = Digest()

  /// The plan of a device.
  /// - Throws: `BlockIOError` if the index is in a temporary file, and cannot be read.
  public init(_ layout: RescueLayout, byteCount: UInt64) throws(BlockIOError) {
    self.byteCount = byteCount
    var layout = layout
    var offset: UInt64 = 0
    var open: RescueExtent?
    while offset < byteCount {
      let extent = try layout.extent(at: offset, limit: byteCount)
      offset = extent.end
      if let before = open, let both = before.joined(with: extent) {
        open = both
      } else {
        if let open { add(open) }
        open = extent
      }
    }
    if let open { add(open) }
  }

  private mutating func add(_ extent: RescueExtent) {
    let (kind, place): (UInt64, UInt64)
    switch extent.kind {
    case .data(let byte):
      mappedBytes += extent.byteCount
      (kind, place) = (1, byte)
    case .origin(let byte):
      originBytes += extent.byteCount
      (kind, place) = (5, byte)
    case .hole: (kind, place) = (2, 0)
    case .lost:
      lostBytes += extent.byteCount
      (kind, place) = (3, 0)
    case .beyond:
      beyondBytes += extent.byteCount
      (kind, place) = (4, 0)
    }
    if extent.isLost, lost.count < 1000 { lost.append(extent) }
    for number in [kind, place, extent.offset, extent.byteCount] {
      for shift in stride(from: UInt64(0), to: 64, by: 8) { places.add(number >> shift & 0xff) }
    }
  }
}

extension RescueExtent {
  /// Whether it is read from the external origin.
  fileprivate var isOfOrigin: Bool { if case .origin = kind { true } else { false } }

  /// A part of it, from byte `skipped` on.
  fileprivate func part(from skipped: UInt64, _ byteCount: UInt64) -> RescueExtent {
    let kind: Kind =
      switch kind {
      case .data(let byte): .data(byte + skipped)
      case .origin(let byte): .origin(byte + skipped)
      case .hole, .lost, .beyond: kind
      }
    return RescueExtent(kind: kind, offset: offset + skipped, byteCount: byteCount)
  }

  /// Both as one, if `next` continues this one.
  public func joined(with next: RescueExtent) -> RescueExtent? {
    guard next.offset == end else { return nil }
    switch (kind, next.kind) {
    case (.data(let a), .data(let b)) where a + byteCount == b: break
    case (.origin(let a), .origin(let b)) where a + byteCount == b: break
    case (.hole, .hole), (.lost, .lost), (.beyond, .beyond): break
    default: return nil
    }
    return RescueExtent(kind: kind, offset: offset, byteCount: byteCount + next.byteCount)
  }
}

/// A device or file that an image is made of, or the part of a device that is it.
public struct ExtractionSource {
  let device: any BlockDevice
  let sectorBytes: UInt64
  /// Bytes of it that can be read: whole sectors.
  public var byteCount: UInt64 { device.byteCount / sectorBytes * sectorBytes }

  /// A source.
  /// - Parameter sectorBytes: the least that can be read of it.
  public init(_ device: any BlockDevice, sectorBytes: Int) {
    self.device = device
    self.sectorBytes = UInt64(sectorBytes)
  }
}

/// Copies a thin device from the data device, and from the external origin where nothing is mapped, into an
/// image, as far as they can be read.
///
/// First everything is read in long pieces, and those that fail are left out. Then these are halved down to
/// the sector. Sectors that cannot be read are tried again in as many passes as are wanted. What is in the
/// image is in the map, which is saved from time to time, after the image is durable; so an extraction
/// that ended at any point is continued with the map that was saved last.
public final class Extraction {
  /// The most parts of a map. Beyond it a piece that fails is marked as a whole.
  private static let partsMax = 1 << 20
  /// Bytes written between two maps that are saved.
  private static let bytesBetweenMaps: UInt64 = 256 << 20
  private static let nanosecondsBetweenMaps: UInt64 = 15_000_000_000

  private var layout: RescueLayout
  private let data: ExtractionSource
  private let origin: ExtractionSource?
  private let output: any ExtractionOutput
  private let save: (RescueMap) throws(ToolError) -> Void
  private let progress: Progress
  /// Bytes between two maps; small in tests.
  public var mapInterval = Extraction.bytesBetweenMaps
  /// The map as it is.
  public private(set) var map: RescueMap
  /// Bytes that were read in this run.
  public private(set) var copiedBytes: UInt64 = 0
  /// What progress is of.
  public var title = "Reading"
  private var unsavedBytes: UInt64 = 0
  /// The pieces that are being read, in order.
  private var waiting: [RescueExtent] = []
  private var lastSave = dmthin_monotonic_nanoseconds()
  private let buffer = AlignedBuffer(count: PieceStream.bytesMax)

  /// An extraction.
  /// - Parameters:
  ///   - data: the data device.
  ///   - origin: the external origin, of which the layout knows the size.
  ///   - map: what is in the image already.
  ///   - save: keeps a map durably, which speaks of what is durable in `output`.
  public init(
    _ layout: RescueLayout, from data: ExtractionSource, origin: ExtractionSource? = nil,
    to output: any ExtractionOutput, map: RescueMap, progress: Progress = Progress(),
    save: @escaping (RescueMap) throws(ToolError) -> Void
  ) {
    self.layout = layout
    self.data = data
    self.origin = origin
    self.output = output
    self.map = map
    self.save = save
    self.progress = progress
  }

  /// Reads everything that is not in the image yet.
  /// - Parameter retries: passes over sectors that could not be read.
  /// - Throws: `ToolError` if the image cannot be written, or a source fails in another way than by bad
  ///   sectors. What was done is in the map that was saved last.
  public func run(retries: Int = 0) throws(ToolError) {
    do throws(ToolError) {
      try reopen()
      try copyAll()
      try scrape()
      for pass in 0..<max(0, retries) {
        guard try retry(pass, of: retries) else { break }
      }
    } catch {
      try? checkpoint()
      throw error
    }
    map.position = 0
    map.phase = .finished
    try checkpoint()
  }

  /// Bytes that `run` would read: all that are not in the image and not lost with metadata.
  public func leftBytes() throws(ToolError) -> UInt64 {
    var sum: UInt64 = 0
    try forEachReadable([.untried, .untrimmed, .unscraped, .bad]) { sum += $0.byteCount }
    return sum
  }

  /// Sectors that could not be read before are read again.
  private func reopen() throws(ToolError) {
    try forEachReadable([.bad]) { map.set($0.offset..<$0.end, .unscraped) }
  }

  /// Where the bytes of an extent are; nil for a hole, and for what is lost.
  private func place(of extent: RescueExtent) -> (source: ExtractionSource, byte: UInt64)? {
    switch extent.kind {
    case .data(let byte): (data, byte)
    case .origin(let byte): origin.map { ($0, byte) }
    case .hole, .lost, .beyond: nil
    }
  }

  /// Calls `body` with the parts of these statuses that are on a source.
  private func forEachReadable(
    _ statuses: Set<RescueMap.Status>, _ body: (RescueExtent) throws(ToolError) -> Void
  ) throws(ToolError) {
    var place: UInt64 = 0
    while let part = map.next(from: place, statuses) {
      let extent = try self.extent(part.lowerBound, part.upperBound)
      place = extent.end
      if self.place(of: extent) != nil { try body(extent) }
    }
  }

  // MARK: - Long pieces

  /// A part that is to be read in long pieces.
  private struct Cursor {
    var part: Range<UInt64>?
    var place: UInt64 = 0
  }

  private func copyAll() throws(ToolError) {
    progress.begin("\(title) (MiB)", total: mebibytes(map.bytes(.untried)))
    map.phase = .untried
    try copy(from: data, isOrigin: false)
    if let origin { try copy(from: origin, isOrigin: true) }
  }

  private func copy(from source: ExtractionSource, isOrigin: Bool) throws(ToolError) {
    var cursor = Cursor()
    try unsafe PieceStream(source.device).read(
      next: { () throws(ToolError) in try nextPiece(&cursor, source, isOrigin) },
      body: { _, bytes, failure throws(ToolError) in try unsafe take(bytes, failure) })
  }

  /// The next piece to read of a source. Holes and lost ranges on the way are dealt with.
  private func nextPiece(
    _ cursor: inout Cursor, _ source: ExtractionSource, _ isOrigin: Bool
  ) throws(ToolError) -> PieceStream.Piece? {
    while true {
      if cursor.part.map({ cursor.place >= $0.upperBound }) ?? true {
        guard let part = map.next(from: cursor.place, [.untried]) else { return nil }
        cursor.part = part
        cursor.place = part.lowerBound
      }
      guard let part = cursor.part else { return nil }
      var extent = try self.extent(cursor.place, part.upperBound)
      cursor.place = extent.end
      guard let byte = place(of: extent)?.byte else {
        try zeroed(extent.offset..<extent.end)
        mark(extent.offset..<extent.end, extent.isLost ? .bad : .finished)
        progress.advance(by: mebibytes(extent.end) - mebibytes(extent.offset))
        try saveSometimes()
        continue
      }
      if extent.isOfOrigin != isOrigin { continue }
      // Runs that continue each other are read together, up to a multiple of the piece's size.
      let bytesMax = UInt64(PieceStream.bytesMax)
      let most = bytesMax - extent.offset % bytesMax
      while extent.byteCount < most, cursor.place < part.upperBound {
        let next = try self.extent(cursor.place, part.upperBound)
        guard let both = extent.joined(with: next) else { break }
        extent = both
        cursor.place = extent.end
      }
      extent.byteCount = min(extent.byteCount, most)
      cursor.place = extent.end
      let whole = rounded(extent, byte, source.sectorBytes)
      waiting.append(extent)
      return PieceStream.Piece(offset: whole.byte, byteCount: Int(whole.count), tag: byte)
    }
  }

  /// The whole sectors of a range of data. A map of another device may have parts of sectors.
  private func rounded(_ extent: RescueExtent, _ byte: UInt64, _ sectorBytes: UInt64) -> (
    byte: UInt64, count: UInt64
  ) {
    let first = byte / sectorBytes * sectorBytes
    let end = (byte + extent.byteCount + sectorBytes - 1) / sectorBytes * sectorBytes
    return (first, min(end - first, UInt64(PieceStream.bytesMax)))
  }

  private func take(_ bytes: UnsafeRawBufferPointer, _ failure: BlockIOError?) throws(ToolError) {
    let extent = waiting.removeFirst()
    let range = extent.offset..<extent.end
    if let failure {
      try requireMediaError(failure)
      mark(range, .untrimmed)
    } else if let (source, byte) = place(of: extent) {
      let skipped = Int(byte % source.sectorBytes)
      try unsafe copied(
        UnsafeRawBufferPointer(rebasing: bytes[skipped..<(skipped + Int(extent.byteCount))]), range)
    }
    progress.advance(by: mebibytes(extent.end) - mebibytes(extent.offset))
    try saveSometimes()
  }

  private func mebibytes(_ bytes: UInt64) -> UInt64 { bytes >> 20 }

  // MARK: - Sectors

  /// Halves what failed, down to the sector.
  private func scrape() throws(ToolError) {
    let statuses: Set<RescueMap.Status> = [.untrimmed, .unscraped]
    let left = map.bytes(.untrimmed) + map.bytes(.unscraped)
    guard left > 0 else { return }
    progress.begin("Reading around bad sectors (KiB)", total: left >> 10)
    map.phase = .unscraped
    var place: UInt64 = 0
    while let part = map.next(from: place, statuses) {
      let extent = try self.extent(part.lowerBound, part.upperBound)
      place = extent.end
      guard let (source, byte) = self.place(of: extent) else {
        mark(extent.offset..<extent.end, extent.isLost ? .bad : .finished)
        continue
      }
      var done: UInt64 = 0
      while done < extent.byteCount {
        // A piece ends at a sector.
        let most = UInt64(PieceStream.bytesMax) - (byte + done) % source.sectorBytes
        let count = min(extent.byteCount - done, most)
        try halve(
          extent.part(from: done, count), source, byte + done,
          isKnownBad: map.count < Self.partsMax && count > source.sectorBytes)
        done += count
        progress.advance(by: count >> 10)
        try saveSometimes()
      }
    }
  }

  /// Reads a piece, or its halves.
  /// - Parameter isKnownBad: whether it failed before, so that only its halves are read.
  private func halve(
    _ extent: RescueExtent, _ source: ExtractionSource, _ byte: UInt64, isKnownBad: Bool = false
  ) throws(ToolError) {
    let range = extent.offset..<extent.end
    let sectorBytes = source.sectorBytes
    map.position = range.lowerBound
    if !isKnownBad, try read(extent, source, byte) { return }
    let sectors = (byte + extent.byteCount + sectorBytes - 1) / sectorBytes - byte / sectorBytes
    guard sectors > 1, map.count < Self.partsMax else {
      try zeroed(range)
      return mark(range, .bad)
    }
    let middle = (byte / sectorBytes + sectors / 2) * sectorBytes - byte
    try halve(extent.part(from: 0, middle), source, byte)
    try halve(extent.part(from: middle, extent.byteCount - middle), source, byte + middle)
  }

  /// Reads a piece and writes it; false if it cannot be read.
  private func read(_ extent: RescueExtent, _ source: ExtractionSource, _ byte: UInt64)
    throws(ToolError) -> Bool
  {
    let whole = rounded(extent, byte, source.sectorBytes)
    let bytes = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[..<Int(whole.count)])
    do throws(BlockIOError) {
      try unsafe source.device.read(into: bytes, at: whole.byte)
    } catch {
      try requireMediaError(error)
      return false
    }
    let skipped = Int(byte - whole.byte)
    try unsafe copied(
      UnsafeRawBufferPointer(rebasing: bytes[skipped..<(skipped + Int(extent.byteCount))]),
      extent.offset..<extent.end)
    return true
  }

  /// Tries bad sectors once more. Returns whether any are left.
  private func retry(_ pass: Int, of passes: Int) throws(ToolError) -> Bool {
    progress.begin(
      "Trying again, pass \(pass + 1) of \(passes) (KiB)", total: map.bytes(.bad) >> 10)
    map.phase = .bad
    var isAnyLeft = false
    var place: UInt64 = 0
    while let part = map.next(from: place, [.bad]) {
      let extent = try self.extent(part.lowerBound, part.upperBound)
      place = extent.end
      progress.advance(by: extent.byteCount >> 10)
      guard let (source, byte) = self.place(of: extent) else { continue }
      var done: UInt64 = 0
      while done < extent.byteCount {
        let count = min(
          extent.byteCount - done, source.sectorBytes - (byte + done) % source.sectorBytes)
        let sector = extent.part(from: done, count)
        map.position = sector.offset
        if !(try read(sector, source, byte + done)) { isAnyLeft = true }
        done += count
        try saveSometimes()
      }
    }
    return isAnyLeft
  }

  // MARK: - Bookkeeping

  private func extent(_ offset: UInt64, _ limit: UInt64) throws(ToolError) -> RescueExtent {
    do throws(BlockIOError) {
      return try layout.extent(at: offset, limit: limit)
    } catch {
      throw ToolError(error)
    }
  }

  private func mark(_ range: Range<UInt64>, _ status: RescueMap.Status) {
    map.set(range, status)
    map.position = range.lowerBound
  }

  private func copied(_ bytes: UnsafeRawBufferPointer, _ range: Range<UInt64>)
    throws(ToolError)
  {
    do throws(BlockIOError) {
      try unsafe output.write(bytes, at: range.lowerBound)
    } catch {
      throw ToolError(error)
    }
    mark(range, .finished)
    copiedBytes += UInt64(bytes.count)
    unsavedBytes += UInt64(bytes.count)
  }

  private func zeroed(_ range: Range<UInt64>) throws(ToolError) {
    do throws(BlockIOError) { try output.zero(range) } catch { throw ToolError(error) }
  }

  private func saveSometimes() throws(ToolError) {
    guard
      unsavedBytes >= mapInterval
        || dmthin_monotonic_nanoseconds() - lastSave >= Self.nanosecondsBetweenMaps
    else { return }
    try checkpoint()
  }

  private func checkpoint() throws(ToolError) {
    do throws(BlockIOError) { try output.flush() } catch { throw ToolError(error) }
    try save(map)
    unsavedBytes = 0
    lastSave = dmthin_monotonic_nanoseconds()
  }

  /// Passes on errors other than those of bad sectors: every further read would fail too.
  private func requireMediaError(_ error: BlockIOError) throws(ToolError) {
    guard ![EIO, ENODATA, EILSEQ, EREMOTEIO, ETIMEDOUT, EBADMSG].contains(error.code) else {
      return
    }
    throw ToolError(error)
  }
}
