import DataPath
import DeviceMapper
import Glibc

/// Chunks from several devices in turn.
final class StripedDriver: TargetDriver {
  private let chunk: UInt64
  private let stripes: [LinearTarget]
  private var errors: [Int]
  /// Of each device, this many errors raise an event.
  private static let eventsMax = 14

  init(_ context: DriverContext, _ target: StripedTarget) {
    chunk = UInt64(target.chunkSectors) * 512
    stripes = target.stripes
    errors = [Int](repeating: 0, count: target.stripes.count)
    super.init(context)
  }

  override var requestBytesMax: UInt64 { chunk }
  override var flushCount: Int { stripes.count }
  override var optimalBytes: Int {
    let bytes = chunk.multipliedReportingOverflow(by: UInt64(stripes.count))
    return bytes.overflow ? 0 : Int(clamping: bytes.partialValue)
  }

  override var areas: [(device: OpenDevice, start: UInt64, length: UInt64)] {
    zip(opened, stripes).map { ($0, $1.offset, length / UInt64(stripes.count)) }
  }

  /// Stripe and byte of it, from the stripe's start.
  private func split(_ relative: UInt64) -> (stripe: Int, offset: UInt64) {
    let count = UInt64(stripes.count)
    let number = relative / chunk
    return (Int(number % count), number / count * chunk + relative % chunk)
  }

  override func map(_ part: RequestPointer) {
    switch part.pointee.operation {
    case .flush:
      // Which of its flushes this is was put there by the device.
      let stripe = Int(truncatingIfNeeded: part.pointee.context)
      opened[stripe].direct.submit(part)
    case .discard: discard(part)
    default:
      let (stripe, offset) = split(part.pointee.offset - startByte)
      part.pointee.context = UInt64(stripe)
      part.pointee.offset = stripes[stripe].offset &* 512 &+ offset
      opened[stripe].direct.submit(part)
    }
  }

  /// One range for each stripe.
  private func discard(_ part: RequestPointer) {
    let begin = part.pointee.offset - startByte
    let end = part.pointee.end - startByte
    var ranges: [(stripe: Int, range: Range<UInt64>)] = []
    for stripe in stripes.indices {
      let (lower, upper) = (edge(begin, stripe), edge(end, stripe))
      if lower < upper { ranges.append((stripe, lower..<upper)) }
    }
    for (index, (stripe, range)) in ranges.enumerated() {
      let isLast = index == ranges.count - 1
      let piece = isLast ? part : device.another(part, owner: self)
      piece.pointee.context = UInt64(stripe)
      piece.pointee.offset = stripes[stripe].offset &* 512 &+ range.lowerBound
      piece.pointee.byteCount = Int(clamping: range.upperBound - range.lowerBound)
      opened[stripe].direct.submit(piece)
    }
    if ranges.isEmpty { finishLater(part) }
  }

  /// Where on a stripe everything before `relative` ends.
  private func edge(_ relative: UInt64, _ stripe: Int) -> UInt64 {
    let (its, offset) = split(relative)
    if its == stripe { return offset }
    let floor = offset - offset % chunk
    return stripe < its ? floor + chunk : floor
  }

  override func requestDone(_ part: RequestPointer) {
    let error = part.pointee.errorNumber
    let stripe = Int(truncatingIfNeeded: part.pointee.context)
    if error != 0, error != EOPNOTSUPP, stripe < errors.count {
      errors[stripe] += 1
      if errors[stripe] <= Self.eventsMax { device.raiseEvent() }
    }
    done(part)
  }

  override func table() -> String {
    let destinations = zip(opened, stripes).map { "\($0.number) \($1.offset)" }
    return (["\(stripes.count) \(chunk / 512)"] + destinations).joined(separator: " ")
  }

  override func status(noFlush: Bool) -> String {
    StripedStatus(zip(opened, errors).map { ("\($0.number)", $1 > 0) }).parameters
  }

  override func place(_ offset: UInt64) -> (
    device: OpenDevice, offset: UInt64, byteCount: UInt64
  )? {
    let relative = offset - startByte
    let (stripe, at) = split(relative)
    return (
      opened[stripe], stripes[stripe].offset &* 512 &+ at,
      min(chunk - relative % chunk, endByte - offset)
    )
  }
}
