import Simulation

/// Makes scripts: the same seed makes the same script. Most lines are valid, some are not.
struct ScriptGenerator {
  private struct Active {
    var id: Int
    var sectors: Int
    var origin: String?
    var isSuspended = false
  }

  private var random: SplitMix64
  private(set) var lines: [String] = []
  private let blockSectors: Int
  private var metadataBlocks: Int
  private var dataSectors: Int
  private let dataSectorsMax: Int
  private var features: [String] = []
  private let ignoresDiscards: Bool
  private var devices: Set<Int> = []
  private var active: [String: Active] = [:]
  private var origins: [String: Int] = [:]
  private var transaction = 0
  private var tag = 0
  private var isReadOnly = false
  private var hasMetadataSnapshot = false

  init(seed: UInt64) {
    random = SplitMix64(seed: seed)
    blockSectors = [128, 128, 128, 256, 384].randomElement(using: &random) ?? 128
    metadataBlocks =
      Int.random(in: 0..<12, using: &random) == 0
      ? Int.random(in: 40...100, using: &random) : Int.random(in: 128...600, using: &random)
    let blocks = [6, 12, 24, 48, 96].randomElement(using: &random) ?? 12
    dataSectors = Int.random(in: blocks...2 * blocks, using: &random) * blockSectors
    dataSectorsMax = dataSectors * 2 + blockSectors
    ignoresDiscards = Int.random(in: 0..<10, using: &random) == 0
    lines = ["# seed \(seed)", "devices \(metadataBlocks) \(dataSectorsMax) \(blockSectors)"]
    // A separate generator, so that the rest of a seed's script stays the same.
    var below = SplitMix64(seed: seed ^ 0xB10C)
    switch Int.random(in: 0...6, using: &below) {
    case 0:
      lines.append("below linear \(Int.random(in: 1..<dataSectorsMax / 8, using: &below) * 8)")
    case 1: lines.append("below striped \([8, 16, 48, 128, 256].randomElement(using: &below) ?? 8)")
    case 2: lines.append("below delay \(Int.random(in: 1...2, using: &below))")
    case 3: lines.append("below flakey 1000000")
    default: break
    }
    for name in ["a", "b"].prefix(Int.random(in: 0...2, using: &random)) {
      let sectors = Int.random(in: 1...14 * blockSectors, using: &random)
      origins[name] = sectors
      lines.append("origin \(name) \(sectors)")
    }
  }

  private mutating func chance(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &random) == 0 }
  private mutating func number(_ range: ClosedRange<Int>) -> Int {
    Int.random(in: range, using: &random)
  }
  private mutating func add(_ line: String) { lines.append(line) }

  /// A script of about `count` lines.
  mutating func make(_ count: Int) -> [String] {
    features = someFeatures()
    add("create \(dataSectors) \(number(0...4)) \(features.joined(separator: " "))")
    createThin()
    while lines.count < count { step() }
    for name in active.keys.sorted() { readAll(name) }
    add("status pool")
    add("dump")
    return lines
  }

  private mutating func step() {
    switch number(0...99) {
    case 0..<30: transfer(["write", "write", "write", "write", "writefua"])
    case 30..<42: transfer(["read"])
    case 42..<51: transfer(["discard"])
    case 51..<57: if let name = someActive() { add("flush \(name)") }
    case 57..<61: createThin()
    case 61..<68: snapshot()
    case 68..<71: delete()
    case 71..<74: otherMessage()
    case 74..<78: activate()
    case 78..<80: deactivate()
    case 80..<82: resize()
    case 82..<85: retable()
    case 85: growMetadata()
    case 86: suspendPool()
    case 87: suspendThin()
    case 88: restart()
    case 89: waitForSpace()
    default: query()
    }
  }

  // MARK: - Choices

  private mutating func someFeatures() -> [String] {
    var list: [String] = []
    if number(0...2) == 0 { list.append("skip_block_zeroing") }
    if ignoresDiscards { list.append("ignore_discard") }
    if number(0...2) == 0 { list.append("no_discard_passdown") }
    list.append("error_if_no_space")
    return list.shuffled(using: &random)
  }

  private mutating func someActive() -> String? {
    active.keys.sorted().randomElement(using: &random)
  }
  private mutating func someDevice() -> Int {
    chance(12) ? number(0...20) : devices.sorted().randomElement(using: &random) ?? 0
  }
  private mutating func someSize() -> Int {
    let sectors = number(1...28) * blockSectors
    return chance(3) ? sectors + number(1...blockSectors) : sectors
  }

  private mutating func range(_ sectors: Int) -> (Int, Int) {
    let first = number(0...sectors - 1)
    let block = first / blockSectors * blockSectors
    switch number(0...5) {
    case 0: return (first, min(sectors - first, number(1...8)))
    case 1: return (first, min(sectors - first, number(1...3 * blockSectors)))
    case 2, 3: return (block, min(sectors - block, blockSectors))
    case 4: return (block, min(sectors - block, blockSectors * number(1...6)))
    default: return (first, min(sectors - first, number(1...blockSectors)))
    }
  }

  // MARK: - I/O

  private mutating func transfer(_ verbs: [String]) {
    guard let name = someActive(), let device = active[name],
      let verb = verbs.randomElement(using: &random)
    else { return activate() }
    var (first, count) = range(device.sectors)
    if verb == "discard" && chance(5) { (first, count) = (0, device.sectors) }
    tag += 1
    add("\(verb) \(name) \(first) \(count)" + (verb.hasPrefix("write") ? " \(tag)" : ""))
    if chance(20) { add("read pool 0 \(min(dataSectors, blockSectors * 4))") }
  }

  private mutating func readAll(_ name: String) {
    guard let device = active[name] else { return }
    var at = 0
    while at < device.sectors {
      let count = min(4096, device.sectors - at)
      add("read \(name) \(at) \(count)")
      at += count
    }
  }

  // MARK: - Devices

  private mutating func createThin() {
    let id = chance(12) ? someDevice() : number(0...14)
    add("message create_thin \(id)")
    if !isReadOnly { devices.insert(id) }
    if !chance(4) { activate(id) }
  }

  private mutating func activate(_ wanted: Int? = nil) {
    let id = wanted ?? someDevice()
    let name = chance(8) ? "w\(id)" : "v\(id)"
    if active[name] != nil && !chance(8) { return }
    let origin = chance(3) ? origins.keys.sorted().randomElement(using: &random) : nil
    let sectors = someSize()
    add("activate \(name) \(id) \(sectors)\(origin.map { " \($0)" } ?? "")")
    if active[name] == nil && devices.contains(id) {
      active[name] = Active(id: id, sectors: sectors, origin: origin)
    }
  }

  private mutating func deactivate() {
    guard let name = someActive() else { return }
    add("deactivate \(name)")
    active[name] = nil
  }

  private mutating func snapshot() {
    let origin = someDevice()
    let id = chance(15) ? someDevice() : number(0...14)
    let users = active.keys.sorted().filter { active[$0]?.id == origin }
    let suspends = !chance(10)
    if suspends { for name in users { add("suspend \(name)\(chance(3) ? " noflush" : "")") } }
    add("message create_snap \(id) \(origin)")
    if suspends { for name in users { add("resume \(name)") } }
    if devices.contains(origin) && !isReadOnly { devices.insert(id) }
    if chance(2) { activate(id) }
  }

  private mutating func delete() {
    let id = someDevice()
    if !chance(3) {
      for name in active.keys.sorted() where active[name]?.id == id {
        add("deactivate \(name)")
        active[name] = nil
      }
    }
    add("message delete \(id)")
    if !active.values.contains(where: { $0.id == id }) && !isReadOnly { devices.remove(id) }
  }

  private mutating func otherMessage() {
    switch number(0...5) {
    case 0, 1:
      let right = !chance(3)
      let new = number(0...1000)
      add("message set_transaction_id \(right ? transaction : transaction + 1) \(new)")
      if right && !isReadOnly { transaction = new }
    case 2, 3:
      let reserves = chance(5) ? hasMetadataSnapshot : !hasMetadataSnapshot
      add("message \(reserves ? "reserve_metadata_snap" : "release_metadata_snap")")
      if !isReadOnly { hasMetadataSnapshot = reserves }
    default:
      let texts = [
        "create_thin", "create_thin 16777216", "create_thin -1", "create_thin 0x3",
        "create_thin +3", "create_thin 03", "create_thin 1 2", "create_snap 5", "create_snap 1 1",
        "create_snap 3 99", "delete", "delete 99", "delete 16777216", "delete a",
        "set_transaction_id 0", "set_transaction_id x 1", "set_transaction_id 0 1 2",
        "reserve_metadata_snap 1", "release_metadata_snap now", "frobnicate", "CREATE_THIN 20",
        "Delete 20",
      ]
      let text = texts.randomElement(using: &random) ?? "none"
      add("message \(text)")
      if ["create_thin +3", "create_thin 03"].contains(text) && !isReadOnly { devices.insert(3) }
    }
  }

  private mutating func resize() {
    guard let name = someActive(), var device = active[name] else { return }
    device.sectors = someSize()
    if chance(4) { device.origin = origins.keys.sorted().randomElement(using: &random) }
    add(
      "resize \(name) \(device.id) \(device.sectors)\(device.origin.map { " \($0)" } ?? "")")
    active[name] = device
  }

  // MARK: - The pool

  private mutating func retable() {
    isReadOnly = chance(8)
    // The kernel also grows a read-only pool. Nothing is committed then, so it grows the pool again
    // the next time, and the pool ends up larger than its device.
    if !isReadOnly && chance(3) {
      dataSectors = min(
        dataSectorsMax, dataSectors + number(0...dataSectorsMax / 4) + (chance(3) ? 1 : 0))
    }
    if chance(12) {
      // Too small: the pool stays suspended until it gets another table.
      add("table \(blockSectors) 0 error_if_no_space")
      add("resume pool")
      add("status pool")
    }
    var wanted = someFeatures()
    if isReadOnly { wanted = Array(wanted.prefix(3)) + ["read_only"] }
    add("table \(dataSectors) \(number(0...6)) \(wanted.joined(separator: " "))")
    if chance(2) { add("suspend pool\(chance(3) ? " noflush" : "")") }
    add("resume pool")
    features = wanted
  }

  private mutating func growMetadata() {
    guard !isReadOnly else { return }
    metadataBlocks += number(0...300)
    add("growmeta \(metadataBlocks)")
    if chance(2) { add("status pool") }
    add("suspend pool")
    add("resume pool")
  }

  private mutating func suspendPool() {
    add("suspend pool")
    for _ in 0..<number(0...3) {
      switch number(0...3) {
      case 0: createThin()
      case 1: otherMessage()
      case 2: delete()
      default: query()
      }
    }
    add("resume pool")
  }

  private mutating func suspendThin() {
    guard let name = someActive() else { return }
    add("suspend \(name)")
    for _ in 0..<number(1...4) { step() }
    add("resume \(name)")
  }

  private mutating func restart() {
    for name in active.keys.sorted() { add("deactivate \(name)") }
    if chance(2) { add("dump") }
    add("remove pool")
    active = [:]
    isReadOnly = false
    features = someFeatures()
    add("create \(dataSectors) \(number(0...4)) \(features.joined(separator: " "))")
    for id in devices.sorted() where chance(2) { activate(id) }
  }

  /// Writes that wait for space, and one of the ways in which they get it or do not.
  private mutating func waitForSpace() {
    guard let name = someActive(), let device = active[name], !isReadOnly else { return }
    let ending = features.filter { $0 != "error_if_no_space" }.joined(separator: " ")
    add("discard \(name) 0 \(blockSectors)")
    add("write \(name) 0 \(min(device.sectors, blockSectors))  \(tag + 1)")
    add("flush \(name)")
    add("table \(dataSectors) 0 \(ending)")
    add("resume pool")
    // All within one block: the kernel resumes waiting requests in no fixed order, and any of them
    // may get the space.
    let (place, _) = range(device.sectors)
    let end = min(device.sectors, (place / blockSectors + 1) * blockSectors)
    var first = place / blockSectors * blockSectors
    for _ in 0..<number(1...3) where first < end {
      let count = number(1...(end - first))
      tag += 2
      add("start \(name) \(first) \(count) \(tag)")
      first += count
    }
    add("status pool noflush")
    switch number(0...2) {
    case 0:
      if let other = someActive(), let sectors = active[other]?.sectors {
        add("discard \(other) 0 \(sectors)")
        add("pause")
      }
    case 1: dataSectors = min(dataSectorsMax, dataSectors + number(0...dataSectorsMax / 8))
    default: break
    }
    add("table \(dataSectors) 0 \(ending)\(chance(2) ? " error_if_no_space" : "")")
    add("resume pool")
    add("status pool")
    add("table \(dataSectors) 0 \(ending) error_if_no_space")
    add("resume pool")
    add("finish")
    features = (ending.isEmpty ? [] : [ending]) + ["error_if_no_space"]
  }

  private mutating func query() {
    switch number(0...6) {
    case 0, 1: add("status pool\(chance(4) ? " noflush" : "")")
    case 2: if let name = someActive() { add("status \(name)") }
    case 3: add("info \(chance(2) ? "pool" : someActive() ?? "pool")")
    case 4: add("gettable \(chance(2) ? "pool" : someActive() ?? "pool")")
    default: add("dump")
    }
  }
}
