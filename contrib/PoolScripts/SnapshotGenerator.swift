import Simulation

// Scripts of stacks (StackGenerator.swift) with origins on disk A and exception stores on disk B, and these
// operations:
//
//     zero NAME SECTOR COUNT     writes zeros, so that a store is made there
//     merged NAME                waits until a merge has come to its end
//     cut                        no device is left: the rest can be played elsewhere, on the same disks
//
// The origin is suspended while a snapshot comes or goes: otherwise the kernel looks at the first chunk of
// a write to the origin only. One request at a time is under way, so that chunks get their places in one
// order. While a merge is under way nothing is written and its progress is not printed, because that depends
// on time.

/// Makes such scripts: the same seed makes the same script. Some tables are invalid.
struct SnapshotGenerator {
  private struct Origin {
    /// The device below, and the one through which it is written.
    var below: String
    var offset: Int
    var front: String
    var sectors: Int
    /// The table that merges a snapshot into it, and the slice of that one's store.
    var merge: (table: String, cow: String, slice: String)?
    var isMerging: Bool { merge != nil }
  }

  private struct Snapshot {
    var origin: Int
    var sectors: Int
    var cow: String
    var cowSectors: Int
    var offset: Int
    var store: String
    var chunk: Int
    var features: String
    /// Its device is there. A persistent store stays when it is not.
    var isLive = true
  }

  private static let diskSectors = 4096
  private var random: SplitMix64
  private var lines: [String]
  private var origins: [Origin] = []
  private var snapshots: [String: Snapshot] = [:]
  private var freeA = 0
  private var freeB = 0
  private var made = 0
  private var tag = 0

  init(seed: UInt64) {
    random = SplitMix64(seed: seed)
    lines = ["stacks", "# seed \(seed)", "disks \(Self.diskSectors)"]
  }

  private mutating func chance(_ n: Int) -> Bool { number(0...n - 1) == 0 }
  private mutating func number(_ range: ClosedRange<Int>) -> Int {
    Int.random(in: range, using: &random)
  }
  private mutating func any<T>(_ list: [T]) -> T { list[number(0...list.count - 1)] }
  private mutating func add(_ line: String) { lines.append(line) }
  /// Lines for while an origin is suspended.
  private mutating func add(whileSuspended origin: Int, _ new: String...) {
    lines += ["suspend \(origins[origin].front)"] + new + ["resume \(origins[origin].front)"]
  }
  private mutating func someSnapshot(live: Bool = true) -> String? {
    snapshots.keys.sorted().filter { snapshots[$0]?.isLive == live }.randomElement(using: &random)
  }

  /// A script of about `count` lines.
  mutating func make(_ count: Int) -> [String] {
    makeOrigin()
    if chance(3) { makeOrigin() }
    makeSnapshot()
    while lines.count < count { step() }
    for origin in origins.indices { endMerge(origin) }
    for (name, snapshot) in snapshots.sorted(by: { $0.key < $1.key }) where snapshot.isLive {
      add("read \(name) 0 \(snapshot.sectors)")
      add("status \(name)")
    }
    for origin in origins { add("read \(origin.front) 0 \(origin.sectors)") }
    return lines
  }

  private mutating func step() {
    switch number(0...99) {
    case 0..<52: transfer()
    case 52..<60: makeSnapshot()
    case 60..<64: removeSnapshot()
    case 64..<67: reopenSnapshot()
    case 67..<70: reload()
    case 70..<73: handOver()
    case 73..<77: merge()
    case 77..<80: makeWrong()
    case 80..<82: pauseOrigin()
    case 82..<84: cut()
    case 84..<96: query()
    default:
      guard origins.allSatisfy({ !$0.isMerging }) else { return }
      add("dump")
    }
  }

  // MARK: - Devices

  private mutating func makeOrigin() {
    let sectors = any([64, 100, 128, 257])
    let name = origins.count
    add("make r\(name) 0 \(sectors) linear A \(freeA)")
    add("make o\(name) 0 \(sectors) snapshot-origin @r\(name)")
    origins.append(Origin(below: "r\(name)", offset: freeA, front: "o\(name)", sectors: sectors))
    freeA += sectors + number(0...8)
  }

  private func line(_ snapshot: Snapshot, type: String = "snapshot", chunk: Int? = nil) -> String {
    let origin = origins[snapshot.origin]
    return "0 \(snapshot.sectors) \(type) @\(origin.below) @\(snapshot.cow) \(snapshot.store) "
      + "\(chunk ?? snapshot.chunk)\(snapshot.features)"
  }

  private mutating func makeSnapshot() {
    let index = number(0...origins.count - 1)
    let live = snapshots.values.filter { $0.isLive && $0.origin == index }.count
    guard live < 4, !origins[index].isMerging else { return transfer() }
    let sectors = chance(4) ? number(1...origins[index].sectors) : origins[index].sectors
    let store = any(["P", "P", "p", "PO", "N"])
    let chunk = any(store == "N" ? [1, 2, 8, 32] : [1, 1, 2, 4, 8, 8, 16, 32, 64, 0])
    let unit = chunk == 0 ? 32 : chunk
    let chunks = (sectors + unit - 1) / unit
    let records = store == "N" ? 0 : 2 + chunks / (32 * unit)
    let enough = (chunks + records + 1) * unit
    // With fewer than two chunks the kernel writes a header before it refuses the device.
    let least = store == "N" ? 1 : 2
    let cowSectors =
      chance(3) ? unit * number(least...max(least, chunks)) + number(0...unit) : enough
    guard freeB + cowSectors <= Self.diskSectors else { return transfer() }
    let features = any([
      "", "", "", " 1 discard_zeroes_cow", " 2 discard_zeroes_cow discard_passdown_origin",
    ])
    let name = "s\(made)"
    let snapshot = Snapshot(
      origin: index, sectors: sectors, cow: "c\(made)", cowSectors: cowSectors, offset: freeB,
      store: store, chunk: chunk, features: features)
    made += 1
    add("make \(snapshot.cow) 0 \(cowSectors) linear B \(freeB)")
    freeB += cowSectors
    // Otherwise there is what the disk had before: no store.
    let isZeroed = store == "N" || !chance(12)
    if isZeroed && store != "N" { add("zero \(snapshot.cow) 0 1") }
    add(whileSuspended: index, "make \(name) \(line(snapshot))")
    add("status \(name)")
    guard isZeroed else { return add("remove \(name)") }
    snapshots[name] = snapshot
    if chance(3) { add("gettable \(name)") }
  }

  private mutating func removeSnapshot() {
    guard let name = someSnapshot(), let snapshot = snapshots[name],
      !origins[snapshot.origin].isMerging
    else { return }
    add(whileSuspended: snapshot.origin, "remove \(name)")
    if snapshot.store == "N" { snapshots[name] = nil } else { snapshots[name]?.isLive = false }
  }

  /// Has the kernel read a store again, perhaps with a table that says other sizes.
  private mutating func reopenSnapshot() {
    guard let name = someSnapshot(live: false), let snapshot = snapshots[name],
      !origins[snapshot.origin].isMerging
    else { return removeSnapshot() }
    let chunk = chance(3) ? any([0, 2, 8, 128]) : nil
    add(whileSuspended: snapshot.origin, "make \(name) \(line(snapshot, chunk: chunk))")
    add("status \(name)")
    add("gettable \(name)")
    snapshots[name]?.isLive = true
  }

  /// Another table for the same snapshot.
  private mutating func reload() {
    guard let name = someSnapshot(), var snapshot = snapshots[name],
      !origins[snapshot.origin].isMerging
    else { return }
    let front = origins[snapshot.origin].front
    if snapshot.store.uppercased() == "P" && chance(3) { snapshot.store = "PO" }
    add("suspend \(front)")
    add("load \(name) \(line(snapshot))")
    if chance(2) { add("suspend \(name)") }
    if chance(2) { add("info \(name)") }
    if chance(6) { add("load \(name) \(line(snapshot))") }
    add("resume \(name)")
    add("resume \(front)")
    add("status \(name)")
    snapshots[name]?.store = snapshot.store
  }

  /// Another device takes over a snapshot.
  private mutating func handOver() {
    guard let name = someSnapshot(), let snapshot = snapshots[name],
      !origins[snapshot.origin].isMerging
    else { return }
    let front = origins[snapshot.origin].front
    let next = "s\(made)"
    made += 1
    add("suspend \(front)")
    let isRight = !chance(3)
    if isRight { add("suspend \(name)") }
    add("make \(next) \(line(snapshot))")
    if isRight {
      add("status \(name)")
      add("gettable \(name)")
      if chance(2) { add("resume \(name)") }
      add("remove \(name)")
      snapshots[name] = nil
      snapshots[next] = snapshot
    }
    add("resume \(front)")
    add("status \(isRight ? next : name)")
  }

  // MARK: - Merging

  private mutating func merge() {
    guard let name = someSnapshot(), let snapshot = snapshots[name], snapshot.store != "N",
      snapshot.sectors == origins[snapshot.origin].sectors, !origins[snapshot.origin].isMerging
    else { return }
    let front = origins[snapshot.origin].front
    let table = line(snapshot, type: "snapshot-merge")
    add("load \(front) \(table)")
    if chance(3) { add("status \(name)") }
    add("suspend \(front)")
    if chance(8) {
      // The source is not suspended.
      add("resume \(front)")
    }
    add("suspend \(name)")
    add("resume \(front)")
    add("status \(name)")
    add("remove \(name)")
    snapshots[name] = nil
    origins[snapshot.origin].merge = (table, snapshot.cow, slice(snapshot))
    if chance(2) {
      add("read \(front) 0 \(origins[snapshot.origin].sectors)")
      add("gettable \(front)")
    }
    if chance(3) {
      add("suspend \(front)")
      add("resume \(front)")
    }
    if chance(2) { endMerge(snapshot.origin) }
  }

  private mutating func endMerge(_ index: Int) {
    guard origins[index].isMerging else { return }
    let (front, sectors) = (origins[index].front, origins[index].sectors)
    add("merged \(front)")
    if origins.indices.allSatisfy({ $0 == index || !origins[$0].isMerging }) { add("dump") }
    if chance(2) {
      // After its end it goes on as an origin.
      tag += 1
      add("write \(front) \(number(0...sectors / 2)) \(number(1...20)) \(tag)")
      add("discard \(front) 0 8")
      add("flush \(front)")
      add("status \(front)")
    }
    add("load \(front) 0 \(sectors) snapshot-origin @\(origins[index].below)")
    add("resume \(front)")
    origins[index].merge = nil
  }

  // MARK: - Elsewhere

  private func slice(_ snapshot: Snapshot) -> String {
    "0 \(snapshot.cowSectors) linear B \(snapshot.offset)"
  }

  /// Removes every device, and makes those again whose content is on the disks. A merge can be at any point.
  private mutating func cut() {
    for (name, snapshot) in snapshots.sorted(by: { $0.key < $1.key })
    where snapshot.isLive && snapshot.store == "N" {
      add(whileSuspended: snapshot.origin, "remove \(name)")
      snapshots[name] = nil
    }
    let live = snapshots.filter { $0.value.isLive }.sorted { $0.key < $1.key }
    for origin in origins { add("remove \(origin.front)") }
    for (name, _) in live { add("remove \(name)") }
    for (_, snapshot) in live { add("remove \(snapshot.cow)") }
    for origin in origins {
      if let merge = origin.merge { add("remove \(merge.cow)") }
      add("remove \(origin.below)")
    }
    let unused = snapshots.values.filter { !$0.isLive }.map(\.cow).sorted()
    for cow in unused { add("remove \(cow)") }
    add("cut")
    for origin in origins {
      add("make \(origin.below) 0 \(origin.sectors) linear A \(origin.offset)")
      if let merge = origin.merge { add("make \(merge.cow) \(merge.slice)") }
    }
    for snapshot in snapshots.values.sorted(by: { $0.cow < $1.cow }) {
      add("make \(snapshot.cow) \(slice(snapshot))")
    }
    // A merge goes on at once: what has to keep what it overwrites comes first.
    for (name, snapshot) in live {
      add("make \(name) \(line(snapshot))")
      if !origins[snapshot.origin].isMerging { add("status \(name)") }
    }
    for origin in origins {
      let plain = "0 \(origin.sectors) snapshot-origin @\(origin.below)"
      add("make \(origin.front) \(origin.merge?.table ?? plain)")
    }
  }

  // MARK: - Tables that are refused

  private mutating func makeWrong() {
    guard let name = snapshots.keys.sorted().randomElement(using: &random),
      let snapshot = snapshots[name], !origins[snapshot.origin].isMerging
    else { return }
    var words = line(snapshot, type: any(["snapshot", "snapshot", "snapshot-origin"]))
      .split(separator: " ").map(String.init)
    for _ in 0..<number(1...2) {
      let at = number(2...words.count - 1)
      switch number(0...2) {
      case 0 where words.count > 5: words.remove(at: at)
      case 1: words.insert(any(["0", "1", "P", "x"]), at: at)
      default:
        words[at] =
          words[at].first == "@"
          ? any(["/dev/nonexistent", "@\(origins[snapshot.origin].below)", "@\(snapshot.cow)"])
          : any([
            "0", "1", "3", "7", "-1", "8x", "4194304", "4294967296", "X", "PX", "NO",
            "n",
            "discard_zeroes_cow", "discard_passdown_origin", "snapshot", "snapshot-origin",
          ])
      }
    }
    let text = words.joined(separator: " ")
    // A longer type name does not reach the kernel, because the library has no room for it.
    guard words.count > 2, words[2].utf8.count <= 15 else { return }
    add("make wrong \(text)")
    add("gettable wrong")
    add("remove wrong")
  }

  private mutating func pauseOrigin() {
    let origin = any(origins)
    add("suspend \(origin.front)\(chance(2) ? " noflush" : "")")
    add("info \(origin.front)")
    add("resume \(origin.front)")
  }

  // MARK: - I/O

  private mutating func transfer() {
    let fronts = origins.filter { !$0.isMerging }.map { ($0.front, $0.sectors) }
    let live = snapshots.keys.sorted().compactMap { name -> (String, Int)? in
      guard let snapshot = snapshots[name], snapshot.isLive,
        !origins[snapshot.origin].isMerging
      else { return nil }
      return (name, snapshot.sectors)
    }
    guard !(fronts + live).isEmpty else { return endMerge(0) }
    let (name, sectors) = any(fronts + fronts + live)
    let verb = any([
      "write", "write", "write", "write", "writefua", "read", "read", "discard", "flush",
    ])
    if verb == "flush" { return add("flush \(name)") }
    // The kernel does not split a discard where chunks meet, and discards what follows on the COW device: the
    // chunk of another place.
    let unit = verb == "discard" ? 64 : any([1, 4, 8, 16, 32])
    let first = number(0...(sectors - 1) / unit) * unit
    let count = min(sectors - first, any([1, 3, 4, 8, 16, 32, 64]))
    tag += 1
    add("\(verb) \(name) \(first) \(count)" + (verb.hasPrefix("write") ? " \(tag)" : ""))
  }

  private mutating func query() {
    let names =
      origins.filter { !$0.isMerging }.map(\.front)
      + snapshots.keys.sorted().filter {
        guard let snapshot = snapshots[$0] else { return false }
        return snapshot.isLive && !origins[snapshot.origin].isMerging
      }
    guard !names.isEmpty else { return }
    add("\(any(["status", "status", "gettable", "info", "deps"])) \(any(names))")
  }
}
