import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// Turns a failed write into what tools throw.
func written(_ body: () throws(BlockIOError) -> Void) throws(ToolError) {
  do throws(BlockIOError) { try body() } catch { throw ToolError(error) }
}

/// Plans and writes the mappings of a dump.
///
/// The plan is a list of leaves to read with other events between them, built a stretch at a
/// time, so that leaves of many small devices are read ahead as well as those of one large.
struct Dumper: ~Copyable {
  private enum Event {
    case leaf(UInt64)
    case reference(UInt64)
    case beginDefinition(UInt64)
    case endDefinition
    case beginDevice(Int)
    case endDevice
  }

  private let writer: DumpWriter
  private let pool: DumpSource
  private let progress: Progress
  private var runs: SharedRuns
  private var plan: [Event] = []
  private let planMax = 1 << 15
  /// Events of a device that are kept for others with the same root.
  private static let listMax = 64
  /// How often each root has been met, two standing for more.
  private var timesSeen: [UInt64: Int] = [:]
  private var devices: [ThinDevice] = []
  private var pending: MappingRun?
  private var lastKey: UInt64?

  init(_ pool: DumpSource, _ writer: DumpWriter, _ progress: Progress) {
    self.pool = pool
    self.writer = writer
    self.progress = progress
    runs = SharedRuns(blockCount: pool.reader.blockCount)
  }

  mutating func findSharedRuns(_ devices: [ThinDevice]) throws(ToolError) {
    progress.begin("Finding shared mappings", total: UInt64(devices.count))
    for device in devices {
      progress.advance()
      // Whatever a tree has to say of sharing, it has said when it has been seen twice.
      let seen = timesSeen[device.root, default: 0]
      guard seen < 2 else { continue }
      timesSeen[device.root] = seen + 1
      runs.endSequence()
      try pool.forEachLeaf(of: device) { runs.add($0) }
    }
    runs.complete()
  }

  mutating func writeDefinitions() throws(ToolError) {
    progress.begin("Dumping shared mappings", total: 0)
    var from: UInt64 = 0
    while let head = runs.firstSharedHead(from: from) {
      from = head + 1
      plan.append(.beginDefinition(head))
      runs.forEachLeaf(ofRun: head) { plan.append(.leaf($0)) }
      plan.append(.endDefinition)
      if plan.count >= planMax { try carryOut() }
    }
    try carryOut()
  }

  mutating func writeDevices(_ devices: [ThinDevice]) throws(ToolError) {
    self.devices = devices
    progress.begin("Dumping devices", total: devices.reduce(0) { $0 &+ $1.details.mappedBlocks })
    // Snapshots that nothing was written to since have one root, and mostly one short list.
    var lists: [UInt64: [Event]] = [:]
    for (i, device) in devices.enumerated() {
      plan.append(.beginDevice(i))
      if let list = lists[device.root] {
        plan += list
        plan.append(.endDevice)
        if plan.count >= planMax { try carryOut() }
        continue
      }
      let start = plan.count
      var inSharedRun = false
      try pool.forEachLeaf(of: device) { leaf in
        if !inSharedRun {
          guard runs.isSharedHead(leaf) else { return plan.append(.leaf(leaf)) }
          plan.append(.reference(leaf))
          inSharedRun = true
        }
        if runs.isTail(leaf) { inSharedRun = false }
      }
      if timesSeen[device.root] == 2 && plan.count - start <= Self.listMax {
        lists[device.root] = Array(plan[start...])
      }
      plan.append(.endDevice)
      if plan.count >= planMax { try carryOut() }
    }
    try carryOut()
  }

  // MARK: - Carrying out

  private mutating func carryOut() throws(ToolError) {
    let plan = self.plan
    self.plan.removeAll(keepingCapacity: true)
    var ahead = 0
    var at = 0
    try pool.stream.read(
      next: { () throws(ToolError) -> UInt64? in
        while ahead < plan.count {
          ahead += 1
          if case .leaf(let block) = plan[ahead - 1] { return block }
        }
        return nil
      },
      body: { block, bytes, failure throws(ToolError) in
        while at < plan.count {
          let event = plan[at]
          at += 1
          if case .leaf = event { break }
          try carryOut(event)
        }
        if let failure { throw unusable(block, .io(failure)) }
        try emit(block, bytes)
      })
    while at < plan.count {
      try carryOut(plan[at])
      at += 1
    }
  }

  private mutating func carryOut(_ event: Event) throws(ToolError) {
    try endRun()
    try written { () throws(BlockIOError) in
      switch event {
      case .leaf: break
      case .reference(let name): try writer.reference(name)
      case .beginDefinition(let name): try writer.beginDefinition(name)
      case .endDefinition: try writer.endDefinition()
      case .beginDevice(let i): try writer.beginDevice(devices[i].id, devices[i].details)
      case .endDevice: try writer.endDevice()
      }
    }
    switch event {
    case .beginDevice, .beginDefinition: lastKey = nil
    default: break
    }
  }

  private func unusable(_ block: UInt64, _ problem: BlockProblem) -> ToolError {
    ToolError(.damaged, "\(TreeFault(.mappings, block: block, .unusable(problem)))")
  }

  private mutating func emit(_ block: UInt64, _ bytes: RawSpan) throws(ToolError) {
    let node: BtreeNodeView
    do throws(FormatError) {
      node = try BtreeNodeView(
        validating: bytes, number: block, leafValueSize: TreeKind.mappings.valueSize)
    } catch {
      throw unusable(block, .format(error))
    }
    guard node.isLeaf else {
      throw unusable(
        block, .format(.field(.nodeFlags, expected: 2, found: 1)))
    }
    guard node.entryCount > 0 else { return }
    if let lastKey, node.key(0) <= lastKey {
      throw ToolError(
        .damaged,
        "\(TreeFault(.mappings, block: block, .keyBelowSeparator(expected: lastKey &+ 1, found: node.key(0))))"
      )
    }
    lastKey = node.key(node.entryCount - 1)
    var run = pending
    for i in 0..<node.entryCount {
      let key = node.key(i)
      let mapping = Mapping(rawValue: node.value64(i))
      let dataBlock = mapping.dataBlock
      guard dataBlock < pool.dataBlockCount else {
        // `salvage` has said so, and left it out of the device's count.
        if pool.salvaged != nil { continue }
        throw ToolError(
          .damaged,
          "\(TreeFault(.mappings, block: block, .dataBlockBeyondEnd(virtualBlock: key, dataBlock: dataBlock, blockCount: pool.dataBlockCount)))"
        )
      }
      let time = min(mapping.time, pool.mappingTimeMax)
      if let last = run {
        if key == last.virtualBlock &+ last.length && dataBlock == last.dataBlock &+ last.length
          && time == last.time
        {
          run = MappingRun(
            virtualBlock: last.virtualBlock, dataBlock: last.dataBlock, length: last.length + 1,
            time: last.time)
          continue
        }
        try written { () throws(BlockIOError) in try writer.run(last) }
      }
      run = MappingRun(virtualBlock: key, dataBlock: dataBlock, length: 1, time: time)
    }
    pending = run
    progress.advance(by: UInt64(node.entryCount))
  }

  private mutating func endRun() throws(ToolError) {
    guard let run = pending else { return }
    pending = nil
    try written { () throws(BlockIOError) in try writer.run(run) }
  }
}
