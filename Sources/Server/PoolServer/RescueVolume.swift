import DataPath
import EventLoop
import Glibc
import ThinTools

/// A thin device of a rescue as a destination that is only read: its mapped ranges are read from the data
/// device, holes are zeros, or the external origin's bytes, and lost ranges are errors, or zeros.
final class RescueVolume: BlockDestination {
  private var layout: RescueLayout
  private let disk: BlockDestination
  /// Where the pool's data begins on the disk.
  private let dataOffset: UInt64
  private let origin: BlockDestination?
  private let size: UInt64
  private let lostAsZeroes: Bool
  private let requests = RequestPool()

  /// - Parameters:
  ///   - origin: what is read where nothing is mapped.
  ///   - lostAsZeroes: whether lost ranges are zeros rather than errors.
  init(
    _ layout: RescueLayout, _ loop: EventLoop, disk: BlockDestination, dataOffset: UInt64,
    origin: BlockDestination? = nil, byteCount: UInt64, lostAsZeroes: Bool
  ) {
    self.layout = layout
    self.disk = disk
    self.dataOffset = dataOffset
    self.origin = origin
    self.lostAsZeroes = lostAsZeroes
    let sector = UInt64(max(disk.logicalBlockBytes, origin?.logicalBlockBytes ?? 0))
    size = byteCount / sector * sector
    super.init(loop)
  }

  override var byteCount: UInt64 { size }
  override var logicalBlockBytes: Int {
    max(disk.logicalBlockBytes, origin?.logicalBlockBytes ?? 0)
  }
  override var isReadOnly: Bool { true }

  override func submit(_ request: RequestPointer) {
    switch unsafe request.pointee.operation {
    case .flush: unsafe loop.finishLater(request)
    case .read:
      guard unsafe request.pointee.byteCount >= 0, unsafe request.pointee.end <= size else {
        return unsafe loop.finishLater(request, EIO)
      }
      unsafe read(request)
    default: unsafe loop.finishLater(request, EROFS)
    }
  }

  /// Sends the parts of a read on their way. Counts itself as a part until all are.
  private func read(_ request: RequestPointer) {
    let (begin, end) = unsafe (request.pointee.offset, request.pointee.end)
    unsafe request.pointee.errorNumber = 0
    unsafe request.pointee.pending = 1
    var offset = begin
    while offset < end, unsafe request.pointee.errorNumber == 0, let extent = next(offset, end) {
      let memory = unsafe request.pointee.memory.advanced(by: Int(offset - begin))
      offset = extent.end
      let count = Int(extent.byteCount)
      switch extent.kind {
      case .data(let byte): unsafe send(request, disk, dataOffset + byte, count, memory)
      case .lost, .beyond:
        if lostAsZeroes { memory.zero(count) } else { unsafe request.pointee.errorNumber = EIO }
      case .hole, .origin:
        let below =
          origin.map { min(extent.end, max($0.byteCount, extent.offset)) } ?? extent.offset
        let there = Int(below - extent.offset)
        if let origin, there > 0 { unsafe send(request, origin, extent.offset, there, memory) }
        memory.advanced(by: there).zero(count - there)
      }
    }
    if offset < end, unsafe request.pointee.errorNumber == 0 {
      unsafe request.pointee.errorNumber = EIO
    }
    unsafe request.pointee.pending -= 1
    if unsafe request.pointee.pending == 0 {
      unsafe loop.finishLater(request, request.pointee.errorNumber)
    }
  }

  private func send(
    _ request: RequestPointer, _ disk: BlockDestination, _ offset: UInt64, _ count: Int,
    _ memory: RequestMemory
  ) {
    unsafe request.pointee.pending += 1
    unsafe disk.submit(
      requests.take(
        .read, offset: offset, byteCount: count, memory: memory, owner: self, parent: request))
  }

  override func requestDone(_ part: RequestPointer) {
    let (parent, error) = unsafe (part.pointee.parent, part.pointee.errorNumber)
    unsafe requests.give(part)
    requests.trim()
    guard let parent = unsafe parent else { return }
    if error != 0 { unsafe parent.pointee.errorNumber = error }
    unsafe parent.pointee.pending -= 1
    if unsafe parent.pointee.pending == 0 { unsafe parent.finish(parent.pointee.errorNumber) }
  }

  /// What a range begins with, as long as it goes on; nil if the index cannot be read.
  private func next(_ offset: UInt64, _ limit: UInt64) -> RescueExtent? {
    guard var extent = try? layout.extent(at: offset, limit: limit) else { return nil }
    while extent.end < limit, let next = try? layout.extent(at: extent.end, limit: limit),
      let both = extent.joined(with: next)
    { extent = both }
    return extent
  }

  override func isHole(_ range: Range<UInt64>) -> Bool {
    guard !range.isEmpty, range.upperBound <= size, origin == nil,
      let extent = next(range.lowerBound, range.upperBound)
    else { return false }
    return extent.kind == .hole && extent.end == range.upperBound
  }

  override func forEachExtent(in range: Range<UInt64>, _ body: (Extent) -> Bool) {
    var offset = range.lowerBound
    while offset < range.upperBound {
      let extent =
        next(offset, range.upperBound)
        ?? RescueExtent(kind: .lost, offset: offset, byteCount: range.upperBound - offset)
      // What is lost may be anything, also where it reads as zeros.
      var isHole = extent.kind == .hole
      var end = extent.end
      if isHole, let origin, offset < origin.byteCount {
        isHole = false
        end = min(end, origin.byteCount)
      }
      let found = Extent(
        offset: offset, byteCount: end - offset, isAllocated: !isHole, isZero: isHole)
      guard body(found) else { return }
      offset = end
    }
  }
}
