import Simulation

// Scripts for devices of any targets, one operation in a line. `A` and `B` are disks, `@NAME` is a device:
//
//     disks SECTORS                                  first: both disks, of this size
//     make NAME LINE[, LINE...], load NAME LINE...   a table's lines: START LENGTH TYPE WORD...
//     suspend NAME [noflush], resume NAME, remove NAME
//     write NAME SECTOR COUNT TAG, writefua, read, discard NAME SECTOR COUNT, flush NAME
//     hold NAME COUNT VERB [SECTOR COUNT TAG]        a request that a delay holds back, until COUNT are
//     finish                                         waits for those
//     status NAME, gettable NAME, info NAME, deps NAME
//     dump                                           digests of both disks
//
// No byte of a device maps to the same place as another, so that the order of a request's parts
// does not matter. Whether a flakey device works does not change while a script is played.

/// Makes such scripts: the same seed makes the same script. Some tables are invalid.
struct StackGenerator {
  private struct Device {
    var sectors: Int
    /// 0: over disks.
    var level: Int
    var below: String?
    /// Whether a part of it was on a disk when its table became live. Otherwise the kernel has no
    /// cache to flush, and a flush does not reach the targets.
    var hasDisk: Bool
  }

  private static let diskSectors = 2048
  private var random: SplitMix64
  private var lines: [String]
  private var devices: [String: Device] = [:]
  private var made = 0
  private var tag = 0

  init(seed: UInt64) {
    random = SplitMix64(seed: seed)
    lines = ["stacks", "# seed \(seed)", "disks \(Self.diskSectors)"]
  }

  private mutating func chance(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &random) == 0 }
  private mutating func number(_ range: ClosedRange<Int>) -> Int {
    Int.random(in: range, using: &random)
  }
  private mutating func any<T>(_ list: [T]) -> T { list[number(0...list.count - 1)] }
  private mutating func add(_ line: String) { lines.append(line) }
  private mutating func someDevice() -> String? {
    devices.keys.sorted().randomElement(using: &random)
  }

  /// A script of about `count` lines.
  mutating func make(_ count: Int) -> [String] {
    for _ in 0..<3 { makeDevice() }
    while lines.count < count { step() }
    for name in devices.keys.sorted() {
      add("read \(name) 0 \(min(2048, devices[name]?.sectors ?? 0))")
      add("status \(name)")
    }
    return lines
  }

  private mutating func step() {
    switch number(0...99) {
    case 0..<45: transfer()
    case 45..<53: makeDevice()
    case 53..<63: makeWrong()
    case 63..<70: reload()
    case 70..<76: remove()
    case 76..<82: holdBack()
    case 82..<97: query()
    default: add("dump")
    }
  }

  // MARK: - Tables

  private mutating func makeDevice() {
    guard devices.count < 7 else { return transfer() }
    let (table, device) = someTable()
    add("make d\(made) \(table)")
    devices["d\(made)"] = device
    made += 1
    if chance(3) { add("gettable d\(made - 1)") }
  }

  /// Lines that together use no sector below twice.
  private mutating func someTable(keeping old: Device? = nil) -> (String, Device) {
    let lower = devices.filter { $0.value.level < 2 && $0.value.sectors >= 64 }.keys.sorted()
    let below = old.map(\.below) ?? (chance(2) ? lower.randomElement(using: &random) : nil)
    // The place for the next line.
    var free = below.map { ["@\($0)": 0] } ?? ["A": 0, "B": 0]
    let size = below.flatMap { devices[$0]?.sectors } ?? Self.diskSectors
    var table: [String] = []
    var length = 0
    for _ in 0..<number(1...3) {
      let wanted = 8 * number(1...16)
      guard let line = someLine(wanted, &free, size, isOverDevice: below != nil) else { break }
      table.append("\(length) \(wanted) \(line)")
      length += wanted
    }
    if table.isEmpty { (table, length) = (["0 64 zero"], 64) }
    let level = below.flatMap { devices[$0] }.map { $0.level + 1 } ?? 0
    let isOnDisk = below.map { devices[$0]?.hasDisk ?? false } ?? true
    let hasDisk = isOnDisk && table.contains { !$0.hasSuffix("zero") && !$0.hasSuffix("error") }
    let device = Device(sectors: length, level: level, below: below, hasDisk: hasDisk)
    return (table.joined(separator: ", "), device)
  }

  /// `DEVICE SECTOR` with room for `count` sectors.
  private mutating func place(_ count: Int, _ free: inout [String: Int], _ size: Int) -> String? {
    let name = any(free.keys.sorted())
    let start = (free[name] ?? 0) + number(0...8)
    guard start + count <= size else { return nil }
    free[name] = start + count
    return "\(name) \(start)"
  }

  private mutating func someLine(
    _ count: Int, _ free: inout [String: Int], _ size: Int, isOverDevice: Bool
  ) -> String? {
    switch number(0...11) {
    case 0: return "zero"
    case 1: return "error"
    case 2, 3: return place(count, &free, size).map { "linear \($0)" }
    case 4, 5:
      let chunk = any([1, 2, 4])
      guard let first = place(count / 2, &free, size), let second = place(count / 2, &free, size)
      else { return nil }
      return "striped 2 \(chunk) \(first) \(second)"
    case 6...8:
      var classes: [String] = []
      for _ in 0..<number(1...3) {
        guard let place = place(count, &free, size) else { return nil }
        classes.append("\(place) \(any([0, 0, 1, 5, 20]))")
      }
      return "delay " + classes.joined(separator: " ")
    default:
      return place(count, &free, size).map { "flakey \($0) \(someFailing(isOverDevice))" }
    }
  }

  /// Intervals and features of flakey. Bytes of reads are corrupted only over other devices: over a
  /// disk the kernel does not corrupt them.
  private mutating func someFailing(_ isOverDevice: Bool) -> String {
    let interval = any(["0 1000000", "0 1000000", "0 1000000", "1000000 0", "1000000 7"])
    var features: [String] = []
    let direction = isOverDevice && chance(2) ? "r" : "w"
    if chance(2) {
      let flags = any([0, 0, 0, 1, 2, 2048, 4096, 131_072, 131_073])
      features.append(
        "corrupt_bio_byte \(any([1, 3, 512, 513, 4096, 9999])) \(direction) \(number(0...255)) \(flags)"
      )
    }
    if features.isEmpty || direction == "r", chance(2) {
      features.append(any(["drop_writes", "error_writes"]))
    }
    let words = features.shuffled(using: &random).joined(separator: " ")
    let count = words.split(separator: " ").count
    return count == 0 && chance(2) ? interval : "\(interval) \(count) \(words)"
  }

  /// An invalid or unusual table.
  private mutating func makeWrong() {
    let (table, _) = someTable()
    var words = table.split(separator: " ").map(String.init)
    for _ in 0..<number(1...2) {
      let at = number(0...words.count - 1)
      let isDevice = words[at].first == "@" || words[at] == "A" || words[at] == "B"
      switch number(0...3) {
      case 0 where words.count > 4 && !isDevice: words.remove(at: at)
      case 1: words.insert(any(["0", "1", "7", "x", "r", "drop_writes"]), at: at)
      default:
        words[at] =
          isDevice
          ? "/dev/nonexistent"
          : any([
            "0", "1", "3", "16", "-1", "+8", "x", "8x", "4294967295", "4294967296",
            "18446744073709551615", "99999999999999999999", "nosuch", "linear", "delay", "flakey",
            "drop_writes", "error_writes", "corrupt_bio_byte", "error_reads",
          ])
      }
    }
    let text = words.joined(separator: " ")
    // A longer type name does not reach the kernel, because the library has no room for it.
    let types = text.split(separator: ",").compactMap {
      $0.split(separator: " ").dropFirst(2).first
    }
    if types.contains(where: { $0.utf8.count > 15 }) { return }
    add("make wrong \(text)")
    add("gettable wrong")
    add("remove wrong")
  }

  private mutating func reload() {
    guard let name = someDevice(), let old = devices[name], !isBelow(name) else { return }
    let (table, new) = someTable(keeping: old)
    add("load \(name) \(table)")
    if chance(2) { add("suspend \(name)\(chance(2) ? " noflush" : "")") }
    if chance(3) { add("info \(name)") }
    add("resume \(name)")
    devices[name] = new
  }

  private func isBelow(_ name: String) -> Bool { devices.values.contains { $0.below == name } }

  private mutating func remove() {
    guard let name = someDevice() else { return }
    add("remove \(name)")
    if !isBelow(name) { devices[name] = nil }
  }

  // MARK: - I/O

  private mutating func transfer() {
    guard let name = someDevice(), let sectors = devices[name]?.sectors else { return }
    let verb = any([
      "write", "write", "write", "writefua", "read", "read", "read", "discard", "flush",
    ])
    if verb == "flush" {
      if devices[name]?.hasDisk == true { add("flush \(name)") }
      return
    }
    let first = number(0...sectors - 1)
    let count = min(sectors - first, any([1, 2, 8, 16, 40]))
    tag += 1
    add("\(verb) \(name) \(first) \(count)" + (verb.hasPrefix("write") ? " \(tag)" : ""))
  }

  /// Requests that a delay delays very long, until the device is suspended.
  private mutating func holdBack() {
    let sectors = 64
    add("make held 0 \(sectors) delay A 0 600000 B 64 600000\(chance(2) ? " A 128 600000" : "")")
    let count = number(1...5)
    for held in 1...count {
      tag += 1
      let first = 8 * held
      let request = any(["write \(first) 4 \(tag)", "read \(first) 4 0", "flush"])
      add("hold held \(held) \(request)")
    }
    add("status held")
    if chance(2) { add("load held 0 \(sectors) linear A 0") }
    add("suspend held\(chance(2) ? " noflush" : "")")
    add("finish")
    add("status held")
    add("resume held")
    add("info held")
    add("remove held")
    add("dump")
  }

  private mutating func query() {
    guard let name = someDevice() else { return }
    add("\(any(["status", "gettable", "info", "deps"])) \(name)")
  }
}
