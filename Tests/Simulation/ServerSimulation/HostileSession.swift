import DataPath
import Simulation

/// A session of the NBD protocol as a client might send it, with random changes that may make it
/// invalid.
public struct HostileSession {
  /// The pieces that the client sends.
  public private(set) var pieces: [[UInt8]] = []
  /// The number of options and requests in it.
  public private(set) var messages = 0
  private var random: SplitMix64
  private let exportBytes: UInt64

  /// A session with an export of `exportBytes` bytes, made from the seed.
  public init(seed: UInt64, exportBytes: UInt64, export: String) {
    random = SplitMix64(seed: seed)
    self.exportBytes = exportBytes
    var parts: [[UInt8]] = [NBDClient.big(pick([3, 3, 3, 1, 0, 7, .max] as [UInt32]))]
    for _ in 0..<below(6) { parts.append(option(export)) }
    parts.append(option(7, NBDClient.information(export, [0, 3])))
    for _ in 0..<below(60) { parts.append(request()) }
    messages = parts.count
    for _ in 0..<below(4) { mutate(&parts) }
    cut(Array(parts.joined()))
  }

  private mutating func below(_ limit: Int) -> Int { Int(random.next() % UInt64(limit)) }
  private mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }
  private mutating func noise(_ count: Int) -> [UInt8] {
    (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
  }

  private func option(_ code: UInt32, _ data: [UInt8]) -> [UInt8] {
    NBDClient.big(0x4948_4156_454f_5054 as UInt64) + NBDClient.big(code)
      + NBDClient.big(UInt32(data.count)) + data
  }

  private mutating func option(_ export: String) -> [UInt8] {
    let name = pick([export, export, "", "no such export"])
    switch below(8) {
    case 0: return option(3, [])
    case 1, 2: return option(8, [])
    case 3: return option(6, NBDClient.information(name, [0, 1, 2, 3]))
    case 4: return option(9, NBDClient.contexts(name, pick([[], ["base:"], ["x:y", "base:"]])))
    case 5, 6: return option(10, NBDClient.contexts(name, ["base:allocation"]))
    default:
      let count = below(200)
      return option(UInt32(below(14)), noise(count))
    }
  }

  private mutating func request() -> [UInt8] {
    let command = pick([0, 0, 1, 1, 3, 4, 5, 6, 7, 2, 9] as [UInt16])
    if command == 2, below(8) > 0 { return request() }
    let flags = pick([0, 0, 0, 1, 2, 4, 8, 16, 3, 0x8000] as [UInt16])
    let sectors = UInt32(1 + below(pick([1, 8, 128, 512])))
    let offset = UInt64(below(Int(exportBytes / 512))) * 512
    let length = command == 3 ? 0 : sectors * 512
    let header = NBDClient.header(
      command, flags: flags, cookie: random.next(), offset: command == 3 ? 0 : offset,
      length: length)
    return command == 1 ? header + [UInt8](repeating: 0x5a, count: Int(length)) : header
  }

  private mutating func mutate(_ parts: inout [[UInt8]]) {
    let index = below(parts.count)
    guard !parts[index].isEmpty else { return }
    let at = below(min(parts[index].count, 32))
    switch below(6) {
    case 0: parts[index][at] ^= 1 << UInt8(below(8))
    case 1: parts[index][at] = pick([0, 1, 0x7f, 0x80, 0xff])
    case 2: parts[index].removeSubrange(at...)
    case 3:
      let count = 1 + below(40)
      parts[index].insert(contentsOf: noise(count), at: at)
    case 4: parts.insert(parts[below(parts.count)], at: index)
    default:
      // A number that tends to cause errors in lengths and offsets.
      let number = NBDClient.big(pick([0, 1, 511, .max, .max - 511, 1 << 31, 1 << 25] as [UInt32]))
      parts[index].replaceSubrange(at..<min(at + 4, parts[index].count), with: number)
    }
  }

  private mutating func cut(_ bytes: [UInt8]) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = 1 + below(pick([1, 28, 100, 4096, 200_000]))
      pieces.append(Array(rest.prefix(count)))
      rest = rest.dropFirst(count)
    }
  }
}
