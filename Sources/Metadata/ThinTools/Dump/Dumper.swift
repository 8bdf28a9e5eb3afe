import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata

/// Converts a failed write into a `ToolError`.
func written(_ body: () throws(BlockIOError) -> Void) throws(ToolError) {
  do throws(BlockIOError) { try body() } catch { throw ToolError(error) }
}

/// Receives a pool part by part: first the definitions, each a run of mappings that devices share,
/// then the devices.
protocol PoolSink {
  func begin(_ header: DumpHeader) throws(ToolError)
  func beginDefinition(_ name: UInt64) throws(ToolError)
  func endDefinition() throws(ToolError)
  func beginDevice(_ id: ThinID, _ details: DeviceDetails) throws(ToolError)
  func endDevice() throws(ToolError)
  /// Inserts the mappings of a definition here.
  func reference(_ name: UInt64) throws(ToolError)
  func run(_ run: MappingRun) throws(ToolError)
  /// The devices of the metadata snapshot follow.
  func beginSnapshot(_ superblock: Superblock) throws(ToolError)
  func end() throws(ToolError)
}

/// Plans and writes the mappings of a dump.
///
/// The plan is a list of leaves to read, with other events between them. It is built in stretches,
/// so that leaves of many small devices are read ahead as well as those of a large one.
struct Dumper<Sink: PoolSink>: ~Copyable {
  private enum Event {
    case leaf(UInt64)
    case reference(UInt64)
    case beginDefinition(UInt64)
    case endDefinition
    case beginDevice(Int)
    case endDevice
  }

  private let writer: Sink
  private let pool: DumpSource
  private let progress: Progress
  private var runs: SharedRuns
  private var plan: [Event] = []
  private let planMax = 1 << 15
  /// The most events of a device that are kept for others with the same root.
  private var listMax: Int { 64 }
  /// The number of times that each root was seen, where two stands for more.
  private var timesSeen: [MetadataBlock: Int] = [:]
  private var devices: [ThinDevice] = []
  private var joiner = RunJoiner()
  private var order = LeafOrder()

  init(_ pool: DumpSource, _ writer: Sink, _ progress: Progress) {
    self.pool = pool
    self.writer = writer
    self.progress = progress
    runs = SharedRuns(blockCount: pool.reader.blockCount)
  }

  private mutating func findSharedRuns(_ devices: [ThinDevice]) throws(ToolError) {
    progress.begin("Finding shared mappings", total: UInt64(devices.count))
    for device in devices {
      progress.advance()
      // Seeing a tree twice is enough to find what it shares.
      let seen = timesSeen[device.root, default: 0]
      guard seen < 2 else { continue }
      timesSeen[device.root] = seen + 1
      runs.endSequence()
      try pool.forEachLeaf(of: device) { runs.add($0) }
    }
    runs.complete()
  }

  private mutating func writeDefinitions() throws(ToolError) {
    progress.begin("Writing shared mappings", total: 0)
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

  /// Writes everything: definitions, devices, and those of a metadata snapshot.
  mutating func write(
    _ header: DumpHeader, _ devices: [ThinDevice], snapshot: HeldSnapshot? = nil
  ) throws(ToolError) {
    try findSharedRuns(devices + (snapshot?.devices ?? []))
    try writer.begin(header)
    try writeDefinitions()
    try writeDevices(devices)
    if let snapshot {
      try writer.beginSnapshot(snapshot.superblock)
      try writeDevices(snapshot.devices)
    }
    try writer.end()
  }

  private mutating func writeDevices(_ devices: [ThinDevice]) throws(ToolError) {
    self.devices = devices
    progress.begin("Writing devices", total: devices.reduce(0) { $0 &+ $1.details.mappedBlocks })
    // Snapshots without later writes have the same root, and mostly one short list.
    var lists: [MetadataBlock: [Event]] = [:]
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
      if timesSeen[device.root] == 2 && plan.count - start <= listMax {
        lists[device.root] = Array(plan[start...])
      }
      plan.append(.endDevice)
      if plan.count >= planMax { try carryOut() }
    }
    try carryOut()
  }

  // MARK: - Execution

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
        try emit(block, bytes, failure)
      })
    while at < plan.count {
      try carryOut(plan[at])
      at += 1
    }
  }

  private mutating func carryOut(_ event: Event) throws(ToolError) {
    try endRun()
    switch event {
    case .leaf: break
    case .reference(let name): try writer.reference(name)
    case .beginDefinition(let name): try writer.beginDefinition(name)
    case .endDefinition: try writer.endDefinition()
    case .beginDevice(let i): try writer.beginDevice(devices[i].id, devices[i].details)
    case .endDevice: try writer.endDevice()
    }
    switch event {
    case .beginDevice, .beginDefinition: order = LeafOrder()
    default: break
    }
  }

  private mutating func emit(_ block: UInt64, _ bytes: RawSpan, _ failure: BlockIOError?)
    throws(ToolError)
  {
    let leaf: BtreeNodeView
    do throws(TreeFault) {
      leaf = try order.next(MetadataBlock(block), bytes, failure: failure)
    } catch {
      throw ToolError(error)
    }
    // For ten million mappings, constants are kept in registers.
    let (dataBlockCount, timeMax) = (pool.dataBlockCount, pool.mappingTimeMax)
    var joiner = self.joiner
    for i in 0..<leaf.entryCount {
      let (key, mapping) = (leaf.key(i), Mapping(rawValue: leaf.value64(i)))
      guard mapping.dataBlock < dataBlockCount else {
        // The salvage has reported it, and left it out of the device's count.
        if pool.salvaged != nil { continue }
        let fault = TreeFault.Problem.dataBlockBeyondEnd(
          virtualBlock: key, dataBlock: mapping.dataBlock, blockCount: dataBlockCount)
        throw ToolError(TreeFault(.mappings, block: block, fault))
      }
      let time = min(mapping.time, timeMax)
      let (virtual, data) = (VirtualBlock(key), DataBlock(mapping.dataBlock))
      if joiner.extend(virtual, data, time) { continue }
      guard let ended = joiner.begin(virtual, data, time) else { continue }
      try writer.run(ended)
    }
    self.joiner = joiner
    progress.advance(by: UInt64(leaf.entryCount))
  }

  private mutating func endRun() throws(ToolError) {
    guard let run = joiner.end() else { return }
    try writer.run(run)
  }
}
