import DataPath
import DeviceMapper
import Glibc
import Simulation
import Targets
import TestSupport
import Testing

/// Where a sector of a device is, computed independently of the targets.
private enum Place: Equatable {
  case file(Int, sector: Int)
  case zero
  case error
}

/// A random table of linear, striped, zero and error targets, and the place of each sector.
private struct Layout {
  static let sectors = 192
  static let fileSectors = 128
  var lines: [TableLine] = []
  var places: [Place] = []
  var takesDiscards: Bool { !places.contains(.zero) && !places.contains(.error) }

  init(_ files: [String], from random: inout SplitMix64) {
    let isPlain = Bool.random(using: &random)
    while places.count < Self.sectors {
      let start = places.count
      let wanted = min(Self.sectors - start, 6 * Int.random(in: 1...16, using: &random))
      let (type, parameters): (String, String)
      switch Int.random(in: 0..<(isPlain ? 6 : 8), using: &random) {
      case 6: (type, parameters) = ("zero", add(wanted, .zero))
      case 7: (type, parameters) = ("error", add(wanted, .error))
      case 3...5:
        let chunk = Int.random(in: 1...4, using: &random)
        guard wanted >= 3 * chunk else { continue }
        (type, parameters) = (
          "striped", stripes(files, wanted / (3 * chunk) * chunk, chunk, &random)
        )
      default: (type, parameters) = ("linear", linear(files, wanted, &random))
      }
      lines.append(
        TableLine(
          start: UInt64(start), length: UInt64(places.count - start), type: type,
          parameters: parameters))
    }
  }

  private mutating func add(_ count: Int, _ place: Place) -> String {
    places += [Place](repeating: place, count: count)
    return ""
  }

  private mutating func linear(_ files: [String], _ count: Int, _ random: inout SplitMix64)
    -> String
  {
    let file = Int.random(in: 0..<3, using: &random)
    let offset = Int.random(in: 0...(Self.fileSectors - count), using: &random)
    for sector in 0..<count { places.append(.file(file, sector: offset + sector)) }
    return "\(files[file]) \(offset)"
  }

  private mutating func stripes(
    _ files: [String], _ each: Int, _ chunk: Int, _ random: inout SplitMix64
  ) -> String {
    let offsets = (0..<3).map { _ in
      Int.random(in: 0...(Self.fileSectors - each), using: &random)
    }
    for sector in 0..<each * 3 {
      let number = sector / chunk
      places.append(
        .file(number % 3, sector: offsets[number % 3] + number / 3 * chunk + sector % chunk))
    }
    return "3 \(chunk)" + zip(files, offsets).map { " \($0) \($1)" }.joined()
  }
}

/// A device over three files and one over it, with a model of the files' bytes.
private final class TableModel {
  private struct Sent {
    var outcome: World.Outcome
    var operation: BlockOperation
    var sectors: Range<Int>
    var bytes: [UInt8]
  }
  let world: World
  private let files: [String]
  private var model: [[UInt8]]
  private var random: SplitMix64
  private var layout: Layout
  private var sent: [Sent] = []

  init(seed: UInt64) throws {
    random = SplitMix64(seed: seed)
    let world = try World(onFiles: true)
    self.world = world
    let bytes = Layout.fileSectors * 512
    files = try (0..<3).map { try world.folder.zeros("\($0)", size: UInt64(bytes)) }
    model = [[UInt8]](repeating: zeros(bytes), count: 3)
    layout = Layout(files, from: &random)
    try world.create("volume", layout.lines)
    try world.create("top", [world.line(UInt64(Layout.sectors - 8), "linear", "volume 8")])
  }

  /// Sends requests that do not overlap each other under the table `layout`.
  private func sendSome(_ layout: Layout) throws {
    var touched: Set<Int> = []
    for _ in 0..<Int.random(in: 1...8, using: &random) {
      let operations: [BlockOperation] = [
        .read, .read, .read, .write, .write, .write, .flush, .discard, .writeZeroes,
      ]
      let operation = operations.randomElement(using: &random) ?? .flush
      // Whether the upper device takes discards was decided at its creation.
      let above = operation != .discard && Bool.random(using: &random) ? 8 : 0
      let first = Int.random(in: above..<Layout.sectors, using: &random)
      let count = Int.random(in: 1...min(48, Layout.sectors - first), using: &random)
      let sectors = operation == .flush ? first..<first : first..<(first + count)
      var keys: [Int] = []
      for case .file(let file, let sector) in layout.places[sectors] {
        keys.append(file * 1000 + sector)
      }
      guard touched.isDisjoint(with: keys), Set(keys).count == keys.count else { continue }
      touched.formUnion(keys)
      let bytes =
        operation == .write ? pattern(Int(random.next() >> 40), sectors.count * 512) : []
      let outcome = try world.start(
        operation, above > 0 ? "top" : "volume", at: (first - above) * 512,
        count: sectors.count * 512, bytes)
      sent.append(
        Sent(outcome: outcome, operation: operation, sectors: sectors, bytes: bytes))
    }
  }

  private func expectNothingDone() {
    world.passes(20)
    #expect(sent.allSatisfy { !$0.outcome.isDone })
  }

  /// Waits for the sent requests, and compares the results with the model under `layout`.
  private func compare(_ layout: Layout) {
    world.finish(sent.map(\.outcome))
    for one in sent {
      let error = one.outcome.error
      var expected: Int32 = layout.places[one.sectors].contains(.error) ? EIO : 0
      if one.operation == .discard && !layout.takesDiscards { expected = EOPNOTSUPP }
      #expect(error == expected, "\(one.operation) of \(one.sectors)")
      for sector in one.sectors where error != EOPNOTSUPP {
        let at = (sector - one.sectors.lowerBound) * 512
        let found = error == 0 && one.operation == .read ? one.outcome.bytes[at..<(at + 512)] : []
        guard case .file(let file, let place) = layout.places[sector] else {
          #expect(found.allSatisfy { $0 == 0 })
          continue
        }
        let range = place * 512..<(place * 512 + 512)
        switch one.operation {
        case .write: model[file].replaceSubrange(range, with: one.bytes[at..<(at + 512)])
        case .read where error == 0: #expect(found == model[file][range])
        case .discard, .writeZeroes: model[file].replaceSubrange(range, with: zeros(512))
        default: break
        }
      }
    }
    sent = []
  }

  private func load(_ lines: [TableLine]) throws {
    try world.dm.load(.name("volume"), lines, readOnly: false)
  }
  private func resume() throws {
    try world.resume("volume")
  }

  func step() throws {
    switch Int.random(in: 0..<8, using: &random) {
    case 0:
      // Requests in flight when the table changes still use the old table.
      let new = Layout(files, from: &random)
      try load(new.lines)
      try sendSome(layout)
      try resume()
      compare(layout)
      layout = new
    case 1:
      // Requests that arrive while the device is suspended use the new table.
      let new = Layout(files, from: &random)
      let isEarly = Bool.random(using: &random)
      if isEarly { try load(new.lines) }
      try world.dm.suspend(.name("volume"), Bool.random(using: &random) ? .noFlush : [])
      try sendSome(new)
      expectNothingDone()
      if !isEarly { try load(new.lines) }
      layout = new
      try resume()
      compare(layout)
    case 2:
      // A table that does not fit is refused: the old one stays, and the device stays suspended.
      try load([
        world.line(UInt64(Layout.sectors), "linear", "\(files[0]) \(Layout.fileSectors)")
      ])
      #expect(throws: DeviceMapperError.self) { try resume() }
      try sendSome(layout)
      expectNothingDone()
      try resume()
      compare(layout)
    default:
      try sendSome(layout)
      compare(layout)
    }
  }

  func expectFilesRight() throws {
    world.mapper.removeAll()
    #expect(world.mapper.list().isEmpty)
    for (file, bytes) in zip(files, model) { #expect(try contents(of: file) == bytes) }
  }
}

@Suite("Tables over files")
struct TableModelTests {
  @Test(
    "random I/O over random tables, swapped and suspended meanwhile, equals a model of bytes",
    arguments: [UInt64](1...4))
  func random(seed: UInt64) throws {
    let model = try TableModel(seed: seed)
    for _ in 0..<100 { try model.step() }
    try model.expectFilesRight()
  }
}
