import PersistentData
import ThinFormat
import ThinMetadata

// The operations of a run.
extension ModelRun {
  /// Performs one random operation.
  func step() throws {
    operationCount += 1
    guard !state.devices.isEmpty else { return try create() }
    switch Int.random(in: 0..<100, using: &random) {
    case 0..<46: try write(count: 1)
    case 46..<52: try write(count: UInt64.random(in: 2...64, using: &random))
    case 52..<60: try look()
    case 60..<68: try discard()
    case 68..<72: try create()
    case 72..<79: try snapshot()
    case 79..<83: try delete()
    case 83..<87: try openOrClose()
    case 87..<89: try setTransactionID()
    case 89..<91: try holdOrRelease()
    case 91..<93: try refused()
    case 93:
      if state.references.count * 10 > Int(state.dataBlockCount) * 9 { try growData() }
    case 94: if Int.random(in: 0..<50, using: &random) == 0 { try growMetadata() }
    case 95: try Bool.random(using: &random) ? abort() : reopen()
    default: try commit()
    }
  }

  func anyDevice() -> ThinID { state.devices.keys.sorted().randomElement(using: &random) ?? 0 }

  private func newID() -> ThinID {
    while true {
      let id = ThinID(
        UInt64.random(in: 0...Limits.deviceIDMax, using: &random)
          >> UInt64.random(in: 0...20, using: &random))
      if state.devices[id] == nil { return id }
    }
  }

  private func anyRange() -> Range<UInt64> {
    let first = UInt64.random(in: 0..<options.virtualBlocks, using: &random)
    let shift = UInt64.random(in: 0...11, using: &random)
    return first..<(first + 1 + options.virtualBlocks >> shift)
  }

  func write(count: UInt64) throws {
    let id = anyDevice()
    let first = UInt64.random(in: 0..<options.virtualBlocks, using: &random)
    for block in first..<(first + count) { guard try write(id, block) else { return } }
  }

  /// - Returns: false if the transaction was aborted, or no data block was left.
  func write(_ id: ThinID, _ block: UInt64) throws -> Bool {
    let expected = state.lookup(id, block)
    var data: UInt64?
    var isFull = false
    let done = try attempt { () throws(PoolError) in
      do throws(PoolError) {
        data = try pool.provision(id, VirtualBlock(block))?.rawValue
      } catch .dataFull {
        isFull = true
      }
    }
    guard done else { return false }
    if isFull {
      self.count("data full")
      let used = Set(state.references.keys).union(committed.references.keys)
      try expect(used.count == Int(state.dataBlockCount), "data full with \(used.count) in use")
      try expect(!pool.hasFailed, "a full data device is not a failure")
      // Blocks freed in this transaction can be allocated in the next.
      try commit()
      if state.references.count == Int(state.dataBlockCount) {
        try Int.random(in: 0..<4, using: &random) == 0 ? growData() : delete()
      }
      return false
    }
    self.count("write")
    if let expected, !expected.isShared {
      try expect(data == nil, "block \(block) of device \(id) was mapped twice")
      return true
    }
    guard let data else { throw fail("block \(block) of device \(id) was not mapped") }
    try expect(
      data < state.dataBlockCount && state.references[data] == nil
        && committed.references[data] == nil, "data block \(data) is not free")
    state.map(id, block, to: data)
    changed.insert(id)
    return true
  }

  private func look() throws {
    let id = anyDevice()
    let range = anyRange()
    let found = try pool.lookup(id, VirtualBlock(range.lowerBound))
    let expected = state.lookup(id, range.lowerBound)
    try expect(
      found?.dataBlock.rawValue == expected?.dataBlock && found?.isShared == expected?.isShared,
      "device \(id), block \(range.lowerBound): \(String(describing: found))")
    let run = try pool.nextRun(id, Range(range))
    let expectedRun = nextRun(id, range)
    try expect(
      run?.virtualBlocks.rawValues == expectedRun?.virtualBlocks
        && run?.dataBlock.rawValue == expectedRun?.dataBlock
        && run?.isShared == expectedRun?.isShared,
      "device \(id), \(range): run \(String(describing: run))")
    try expect(
      try pool.highestMapped(id)?.rawValue == state.devices[id]?.mappings.keys.max(),
      "highest of \(id)")
    try expect(try pool.details(of: id) == state.devices[id]?.details, "details of \(id)")
    try expect(pool.hasChanged(id) == changed.contains(id), "whether \(id) was changed")
    count("look")
  }

  private func nextRun(_ id: ThinID, _ range: Range<UInt64>) -> (
    virtualBlocks: Range<UInt64>, dataBlock: UInt64, isShared: Bool
  )? {
    guard let first = range.first(where: { state.devices[id]?.mappings[$0] != nil }),
      let start = state.lookup(id, first)
    else { return nil }
    var end = first + 1
    while end < range.upperBound, let next = state.lookup(id, end),
      next.dataBlock == start.dataBlock + (end - first), next.isShared == start.isShared
    {
      end += 1
    }
    return (first..<end, start.dataBlock, start.isShared)
  }

  private func discard() throws {
    let id = anyDevice()
    let range = anyRange()
    let passesDown = Bool.random(using: &random)
    let isMapped = range.contains { state.devices[id]?.mappings[$0] != nil }
    let done = try attempt { () throws(PoolError) in
      if passesDown {
        try pool.discardPassingDown(id, Range(range))
      } else {
        try pool.remove(id, Range(range))
      }
    }
    guard done else { return }
    count(passesDown ? "discard passed down" : "discard")
    state.unmap(id, range)
    if isMapped || !passesDown { changed.insert(id) }
  }

  private func create() throws {
    if state.devices.count >= options.devicesMax { return try delete() }
    let id = newID()
    guard try attempt({ () throws(PoolError) in try pool.createThin(id) }) else { return }
    count("create")
    state.create(id)
    changed.insert(id)
  }

  func snapshot() throws {
    if state.devices.count >= options.devicesMax { return try delete() }
    let (id, origin) = (newID(), anyDevice())
    let done = try attempt { () throws(PoolError) in
      try pool.createSnapshot(id, origin: origin)
    }
    guard done else { return }
    count("snapshot")
    state.snapshot(id, of: origin)
    changed.formUnion([id, origin])
  }

  func delete() throws {
    let id = anyDevice()
    if openCounts[id, default: 0] > 0 {
      return try expectError(.busy) { () throws(PoolError) in try pool.delete(id) }
    }
    guard try attempt({ () throws(PoolError) in try pool.delete(id) }) else { return }
    count("delete")
    state.delete(id)
    changed.remove(id)
  }

  private func openOrClose() throws {
    let id = anyDevice()
    if openCounts[id, default: 0] > 0, Int.random(in: 0..<3, using: &random) > 0 {
      try pool.closeDevice(id)
      openCounts[id, default: 0] -= 1
    } else {
      try pool.openDevice(id)
      openCounts[id, default: 0] += 1
    }
    count("open or close")
  }

  private func setTransactionID() throws {
    let new = UInt64.random(in: 0...1000, using: &random)
    try pool.setTransactionID(state.transactionID, new)
    state.transactionID = new
    count("set transaction id")
  }

  private func holdOrRelease() throws {
    if state.held != nil {
      let done = try attempt { () throws(PoolError) in try pool.releaseMetadataSnapshot() }
      guard done else { return }
      state.releaseHeld()
      return count("release")
    }
    // The reservation commits, and may fail afterwards.
    let before = pool.superblock.metadataSnapshot
    var isCommitted = false
    pool.beforeCommit = { isCommitted = true }
    defer { pool.beforeCommit = {} }
    do throws(PoolError) {
      try pool.reserveMetadataSnapshot()
    } catch {
      guard error == .metadataFull, before == 0 else { throw fail("reserve: \(error)") }
      count("metadata full")
      return try returnFromReserve(isCommitted)
    }
    committed = state
    device.keep()
    state.reserve()
    count("reserve")
    try commit()
  }

  /// The commit within a reservation succeeded or not, which the device shows.
  private func returnFromReserve(_ began: Bool) throws {
    try pool.abort()
    let view = try readBack()
    if began && view == summary(of: state) { committed = state }
    state = committed
    changed = []
    openCounts = openCounts.filter { committed.devices[$0.key] != nil }
    device.keep()
    try compare(everything: false)
    try growMetadata()
  }

  private func refused() throws {
    let id = anyDevice()
    let none = newID()
    try expectError(.exists) { () throws(PoolError) in try pool.createThin(id) }
    try expectError(.exists) { () throws(PoolError) in
      try pool.createSnapshot(id, origin: id)
    }
    try expectError(.invalid("")) { () throws(PoolError) in
      try pool.createSnapshot(none, origin: none)
    }
    try expectError(.invalid("")) { () throws(PoolError) in try pool.delete(none) }
    try expectError(.invalid("")) { () throws(PoolError) in
      try pool.createThin(.max + 1)
    }
    try expectError(.invalid("")) { () throws(PoolError) in _ = try pool.lookup(none, 0) }
    try expectError(.invalid("")) { () throws(PoolError) in
      try pool.setTransactionID(state.transactionID + 1, 5)
    }
    try expectError(.invalid("")) { () throws(PoolError) in
      try pool.resizeData(to: state.dataBlockCount - 1)
    }
    try expectError(state.held == nil ? .invalid("") : .busy) { () throws(PoolError) in
      if state.held == nil {
        try pool.releaseMetadataSnapshot()
      } else {
        try pool.reserveMetadataSnapshot()
      }
    }
    try expect(!pool.hasFailed, "a refusal is not a failure")
    count("refused")
  }

  private func growData() throws {
    let more = UInt64.random(in: 1...(options.dataBlocks / 4), using: &random)
    let blocks = state.dataBlockCount + more
    let done = try attempt { () throws(PoolError) in try pool.resizeData(to: blocks) }
    guard done else { return }
    state.dataBlockCount = blocks
    count("data grown")
    try commit()
  }
}

extension ModelRun {
  /// Takes this many snapshots of one device, with writes to it and to its snapshots between, and
  /// deletes every device in random order.
  public func snapshotOften(_ times: Int) throws {
    guard try attempt({ () throws(PoolError) in try pool.createThin(0) }) else { return }
    state.create(0)
    changed.insert(0)
    for block in 0..<options.virtualBlocks { _ = try write(0, block) }
    try commit()
    var ids: [ThinID] = [0]
    for number in 1...UInt64(max(1, times)) {
      let n = ThinID(number)
      operationCount += 1
      let origin =
        Int.random(in: 0..<4, using: &random) > 0 ? 0 : ids.randomElement(using: &random) ?? 0
      let done = try attempt { () throws(PoolError) in
        try pool.createSnapshot(n, origin: origin)
      }
      try expect(done, "metadata full")
      count("snapshot")
      state.snapshot(n, of: origin)
      changed.formUnion([n, origin])
      ids.append(n)
      let target = Bool.random(using: &random) ? n : 0
      _ = try write(target, UInt64.random(in: 0..<options.virtualBlocks, using: &random))
      if number % 10 == 0 { try commit() }
      if number == UInt64(times / 2) {
        try commit()
        try pool.reserveMetadataSnapshot()
        state.reserve()
        try commit()
      }
    }
    try commit()
    try compare(everything: true)
    ids.shuffle(using: &random)
    for (n, id) in ids.enumerated() {
      operationCount += 1
      try expect(
        try attempt { () throws(PoolError) in try pool.delete(id) }, "metadata full")
      count("delete")
      state.delete(id)
      changed.remove(id)
      if n % 20 == 0 { try commit() }
    }
    try commit()
    try pool.releaseMetadataSnapshot()
    state.releaseHeld()
    try commit()
    try compare(everything: true)
    try expect(pool.freeDataBlocks == state.dataBlockCount, "data blocks remain in use")
  }
}
