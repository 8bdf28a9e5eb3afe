import DataPath
import DeviceMapper
import Glibc

extension TargetType {
  /// Chunks from several devices in turn.
  static let striped = TargetType("striped", version: (1, 6, 0), StripedTarget.self) {
    (context) throws(TargetError) in try StripedDriver(context)
  }
}

/// Which stripe a part goes to.
private struct PartState: RequestState {
  var stripe: UInt32
}

extension BlockRequest {
  fileprivate var striped: PartState {
    get { state[PartState.self] }
    set { state[PartState.self] = newValue }
  }
}

/// Chunks from several devices in turn.
private final class StripedDriver: TargetDriver {
  private let chunk: UInt64
  /// Device and first sector of each stripe.
  private let stripes: [(device: OpenDevice, sector: UInt64)]
  private var errors: [Int]
  /// The number of errors of each device that raise an event.
  private static let eventsMax = 14

  init(_ context: DriverContext<StripedTarget>) throws(TargetError) {
    let target = context.target
    chunk = UInt64(target.chunkSectors) * 512
    stripes = try target.stripes.enumerated().map { (index, stripe) throws(TargetError) in
      (try context.device(.stripe(index)), stripe.sector)
    }
    errors = [Int](repeating: 0, count: stripes.count)
    super.init(context)
  }

  override var requestBytesMax: UInt64 { chunk }
  override var flushCount: Int { stripes.count }
  override var optimalBytes: Int {
    let bytes = chunk.multipliedReportingOverflow(by: UInt64(stripes.count))
    return bytes.overflow ? 0 : Int(clamping: bytes.partialValue)
  }

  override var areas: [Area] {
    stripes.map { Area($0.device, $0.sector, length / UInt64(stripes.count)) }
  }

  /// The stripe, and the byte from its start.
  private func split(_ relative: UInt64) -> (stripe: Int, offset: UInt64) {
    let count = UInt64(stripes.count)
    let number = relative / chunk
    return (Int(number % count), number / count * chunk + relative % chunk)
  }

  override func map(_ part: RequestPointer) {
    switch unsafe part.pointee.operation {
    case .flush:
      // One for each stripe.
      let stripe = unsafe Int(part.pointee.tag)
      unsafe part.pointee.striped = PartState(stripe: part.pointee.tag)
      unsafe stripes[stripe].device.direct.submit(part)
    case .discard: unsafe discard(part)
    default:
      let (stripe, offset) = unsafe split(part.pointee.offset - startByte)
      unsafe part.pointee.striped = PartState(stripe: UInt32(truncatingIfNeeded: stripe))
      unsafe part.pointee.offset = stripes[stripe].sector &* 512 &+ offset
      unsafe stripes[stripe].device.direct.submit(part)
    }
  }

  /// Discards one range per stripe.
  private func discard(_ part: RequestPointer) {
    let begin = unsafe part.pointee.offset - startByte
    let end = unsafe part.pointee.end - startByte
    var ranges: [(stripe: Int, range: Range<UInt64>)] = []
    for stripe in stripes.indices {
      let (lower, upper) = (edge(begin, stripe), edge(end, stripe))
      if lower < upper { ranges.append((stripe, lower..<upper)) }
    }
    for (index, (stripe, range)) in ranges.enumerated() {
      let isLast = index == ranges.count - 1
      let piece = unsafe isLast ? part : device.another(part, owner: self)
      unsafe piece.pointee.striped = PartState(stripe: UInt32(truncatingIfNeeded: stripe))
      unsafe piece.pointee.offset = stripes[stripe].sector &* 512 &+ range.lowerBound
      unsafe piece.pointee.byteCount = Int(clamping: range.upperBound - range.lowerBound)
      unsafe stripes[stripe].device.direct.submit(piece)
    }
    if ranges.isEmpty { unsafe finishLater(part) }
  }

  /// The position on a stripe at which everything before `relative` ends.
  private func edge(_ relative: UInt64, _ stripe: Int) -> UInt64 {
    let (its, offset) = split(relative)
    if its == stripe { return offset }
    let floor = offset - offset % chunk
    return stripe < its ? floor + chunk : floor
  }

  override func requestDone(_ part: RequestPointer) {
    let error = unsafe part.pointee.errorNumber
    let stripe = unsafe Int(part.pointee.striped.stripe)
    if error != 0, error != EOPNOTSUPP, stripe < errors.count {
      // The kernel identifies stripes by their devices, so stripes on one device share its errors.
      let number = stripes[stripe].device.number
      var isNews = false
      for index in stripes.indices where stripes[index].device.number == number {
        errors[index] += 1
        if errors[index] <= Self.eventsMax { isNews = true }
      }
      if isNews { device.raiseEvent() }
    }
    unsafe done(part)
  }

  override func table() -> String {
    let destinations = stripes.map { "\($0.device.number) \($0.sector)" }
    return (["\(stripes.count) \(chunk / 512)"] + destinations).joined(separator: " ")
  }

  override func status(noFlush: Bool) -> String {
    let numbers = stripes.map { "\($0.device.number) " }.joined()
    let letters = errors.map { $0 > 0 ? "D" : "A" }.joined()
    return "\(stripes.count) \(numbers)1 \(letters)"
  }

  override func place(_ offset: UInt64) -> Place? {
    let relative = offset - startByte
    let (stripe, at) = split(relative)
    return Place(
      stripes[stripe].device, stripes[stripe].sector &* 512 &+ at,
      min(chunk - relative % chunk, endByte - offset))
  }
}
