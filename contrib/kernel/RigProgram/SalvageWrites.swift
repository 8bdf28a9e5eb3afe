import Glibc
import Simulation

/// Writes to thin devices at random, and says what every device has to hold afterwards. The devices are side
/// by side in `path`, in the order in which the input has their ids; each has `blocks` blocks of 64 KiB.
/// Of a block the first and the last page are looked at.
struct SalvageWrites {
  private static let blockBytes = 65_536
  private static let pageBytes = 4096
  /// What a block holds: digests of its first and last page.
  private struct Held: Equatable {
    var first: String
    var last: String
    var text: String { first + "+" + last }
  }
  private let device: RigFile
  private let blocks: Int
  private let page = UnsafeMutableRawBufferPointer.allocate(byteCount: pageBytes, alignment: 4096)

  init(path: String, blocks: Int) throws {
    device = try RigFile(path, O_RDWR)
    self.blocks = blocks
  }

  private static func digest(_ bytes: UnsafeRawBufferPointer) -> String {
    var digest = RigDigest()
    digest.add(bytes)
    return digest.text
  }

  private func held(at offset: Int) throws -> Held {
    func digest(_ offset: Int) throws -> String {
      try device.read(into: page, at: offset)
      return Self.digest(UnsafeRawBufferPointer(page))
    }
    return Held(
      first: try digest(offset), last: try digest(offset + Self.blockBytes - Self.pageBytes))
  }

  /// Reads every block of every device, then, as `seed` has it, writes to blocks (a page of them, or all),
  /// discards some, and takes snapshots. A device changes by what is done to it and by nothing else; what
  /// each has to hold goes to the file `model`, a line each, which begins with the id.
  func play(pool: String, seed: UInt64, model path: String) throws {
    var ids: [UInt64] = []
    while let line = readLine() { ids += try numbers(line) }
    guard !ids.isEmpty else { throw RigError("no devices") }
    let kernel = KernelCalls()
    var random = SplitMix64(seed: seed)
    var held: [UInt64: [Held]] = [:]
    for (place, id) in ids.enumerated() {
      held[id] = try (0..<blocks).map { try self.held(at: (place * blocks + $0) * Self.blockBytes) }
    }
    let zeros = [UInt8](repeating: 0, count: Self.pageBytes)
    let zero = zeros.withUnsafeBytes { Self.digest($0) }
    var new: UInt64 = 900_000
    for n in 1...40 {
      let place = Int(random.next() % UInt64(ids.count))
      let id = ids[place]
      let block = Int(random.next() % UInt64(blocks))
      let offset = (place * blocks + block) * Self.blockBytes
      switch random.next() % 100 {
      case let what where what < 75:
        let unit = Array("salvaged \(seed) \(n) \(id) \(block)\n".utf8)
        var bytes: [UInt8] = []
        while bytes.count < Self.pageBytes { bytes += unit }
        bytes.removeLast(bytes.count - Self.pageBytes)
        let digest = bytes.withUnsafeBytes { Self.digest($0) }
        let isWhole = what >= 40
        let pages = isWhole ? Self.blockBytes / Self.pageBytes : 1
        let all = Array(repeatElement(bytes, count: pages).joined())
        try all.withUnsafeBytes { try device.write($0, at: offset) }
        try device.sync()
        held[id]?[block].first = digest
        if isWhole { held[id]?[block].last = digest }
      case let what where what < 90:
        try device.discard(UInt64(offset), UInt64(Self.blockBytes))
        held[id]?[block] = Held(first: zero, last: zero)
      default:
        new += 1
        try kernel.message(pool, "create_snap \(new) \(id)")
        held[new] = held[id]
      }
    }
    try writeLines(
      path,
      held.sorted { $0.key < $1.key }.map { id, blocks in
        "\(id) " + blocks.map(\.text).joined(separator: " ")
      })
  }

  /// Reads all of it again, those devices too that `play` has made, and names what is otherwise.
  func verify(model path: String) throws {
    var model: [Substring: [Substring]] = [:]
    for line in try readLines(path) {
      let words = line.split(separator: " ")
      model[words[0]] = Array(words.dropFirst())
    }
    var (place, wrong) = (0, 0)
    while let id = readLine() {
      guard let expected = model[Substring(id)], expected.count == blocks else {
        throw RigError("\(path) has no device \(id)")
      }
      for block in 0..<blocks {
        let found = try held(at: (place * blocks + block) * Self.blockBytes)
        guard found.text != expected[block] else { continue }
        put("device \(id): block \(block) is not what was predicted\n".utf8)
        wrong += 1
      }
      place += 1
    }
    if wrong > 0 { throw RigError("\(wrong) blocks are not what was predicted") }
  }
}
