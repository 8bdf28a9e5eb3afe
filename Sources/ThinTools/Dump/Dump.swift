public import BlockIO
import PersistentData
import ThinFormat
public import ThinMetadata

/// What `dump` writes.
public struct DumpOptions: Equatable, Sendable {
  /// Format of the output.
  public var format = DumpFormat.xml
  /// Which state of the pool.
  public var source = MetadataView.Source.current
  /// Devices without their mappings.
  public var skipMappings = false
  /// Only these devices; all where nil. Ids that the pool does not have are passed over.
  public var deviceIDs: Set<UInt64>?
  /// Salvage what can be read of damaged metadata.
  public var repair = false
  /// Values to use instead of the superblock's.
  public var overrides = SuperblockOverrides()

  /// Everything, as XML.
  public init() {}
}

/// Values given by the user for what a damaged superblock or a damaged dump may have lost.
public struct SuperblockOverrides: Equatable, Sendable {
  /// Data block size in sectors.
  public var dataBlockSectors: UInt32?
  /// Data blocks of the pool; only ever raises the number.
  public var dataBlockCount: UInt64?
  /// Transaction id; only ever raises it.
  public var transactionID: UInt64?

  /// Nothing overridden.
  public init() {}
}

/// Writes a pool's metadata as text.
///
/// Memory: `LeafSequence`'s and `SharedRuns`', whatever the number of mappings.
/// - Throws: `ToolError`, with `.inputOutput` when the output fails; what was written until then
///   is incomplete, which its missing last line shows.
public func dump(
  _ device: any BlockDevice, to sink: ByteSink, options: DumpOptions, progress: Progress
) throws(ToolError) {
  let view: MetadataView
  do throws(MetadataError) {
    view = try MetadataView(device, source: options.source)
  } catch {
    throw ToolError(error == .noMetadataSnapshot ? .request : .damaged, "\(error)")
  }
  let superblock = view.superblock
  // A metadata snapshot carries no data space map, so the field's dumps of one say 0 data blocks;
  // `thin_restore --nr-data-blocks` supplies the number.
  let header = DumpHeader(
    uuid: superblock.uuid, time: superblock.time,
    transactionID: max(superblock.transactionID, options.overrides.transactionID ?? 0),
    needsCheck: superblock.needsCheck, version: superblock.version,
    dataBlockSectors: options.overrides.dataBlockSectors ?? superblock.dataBlockSectors,
    dataBlockCount: max(
      superblock.dataSpaceMap.blockCount, options.overrides.dataBlockCount ?? 0))
  let writer = DumpWriter(sink: sink, format: options.format)
  let wanted: (UInt64) -> Bool = { id in options.deviceIDs?.contains(id) ?? true }

  if options.skipMappings {
    let details: [(id: UInt64, details: DeviceDetails)]
    do throws(MetadataError) {
      details = try view.deviceDetails()
    } catch {
      throw ToolError(.damaged, "\(error)")
    }
    try written { () throws(BlockIOError) in
      try writer.begin(header)
      for device in details where wanted(device.id) {
        try writer.beginDevice(device.id, device.details)
        try writer.endDevice()
      }
      try writer.end()
      try sink.flush()
    }
    return
  }

  let devices: [ThinDevice]
  do throws(MetadataError) {
    devices = try view.devices().filter { wanted($0.id) }
  } catch {
    throw ToolError(.damaged, "\(error)")
  }
  var dumper = Dumper(view, writer, progress)
  try dumper.findSharedRuns(devices)
  try written { () throws(BlockIOError) in try writer.begin(header) }
  try dumper.writeDefinitions()
  try dumper.writeDevices(devices)
  try written { () throws(BlockIOError) in
    try writer.end()
    try sink.flush()
  }
}

/// Turns a failed write into what tools throw.
func written(_ body: () throws(BlockIOError) -> Void) throws(ToolError) {
  do throws(BlockIOError) { try body() } catch { throw ToolError(error) }
}

/// Turns a damaged tree into what tools throw.
private func listed(_ body: () throws(TreeFault) -> Void) throws(ToolError) {
  do throws(TreeFault) { try body() } catch { throw ToolError(.damaged, "\(error)") }
}

/// Plans and writes the mappings of a dump.
///
/// The plan is a list of leaves to read with other events between them, built a stretch at a
/// time, so that leaves of many small devices are read ahead as well as those of one large.
private struct Dumper: ~Copyable {
  private enum Event {
    case leaf(UInt64)
    case reference(UInt64)
    case beginDefinition(UInt64)
    case endDefinition
    case beginDevice(Int)
    case endDevice
  }

  private let writer: DumpWriter
  private let leaves: LeafSequence
  private let stream: BlockStream
  private let progress: Progress
  private let dataBlockCount: UInt64
  private var runs: SharedRuns
  private var plan: [Event] = []
  private let planMax = 1 << 15
  private var devices: [ThinDevice] = []
  private var pending: MappingRun?
  private var lastKey: UInt64?

  init(_ view: MetadataView, _ writer: DumpWriter, _ progress: Progress) {
    self.writer = writer
    self.progress = progress
    dataBlockCount = view.dataBlockCount
    stream = BlockStream(view.reader.device)
    leaves = LeafSequence(view.reader, stream: stream)
    runs = SharedRuns(blockCount: view.reader.blockCount)
  }

  mutating func findSharedRuns(_ devices: [ThinDevice]) throws(ToolError) {
    progress.begin("Finding shared mappings", total: UInt64(devices.count))
    for device in devices {
      runs.endSequence()
      try listed { () throws(TreeFault) in
        try leaves.forEach(root: device.root) { leaf throws(TreeFault) in runs.add(leaf) }
      }
      progress.advance()
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
    for (i, device) in devices.enumerated() {
      plan.append(.beginDevice(i))
      var inSharedRun = false
      try listed { () throws(TreeFault) in
        try leaves.forEach(root: device.root) { leaf throws(TreeFault) in
          if !inSharedRun {
            if runs.isSharedHead(leaf) {
              plan.append(.reference(leaf))
              inSharedRun = true
            } else {
              plan.append(.leaf(leaf))
              return
            }
          }
          if runs.isTail(leaf) { inSharedRun = false }
        }
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
    try stream.read(
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
      guard dataBlock < dataBlockCount else {
        throw ToolError(
          .damaged,
          "\(TreeFault(.mappings, block: block, .dataBlockBeyondEnd(virtualBlock: key, dataBlock: dataBlock, blockCount: dataBlockCount)))"
        )
      }
      if let last = run {
        if key == last.virtualBlock &+ last.length && dataBlock == last.dataBlock &+ last.length
          && mapping.time == last.time
        {
          run = MappingRun(
            virtualBlock: last.virtualBlock, dataBlock: last.dataBlock, length: last.length + 1,
            time: last.time)
          continue
        }
        try written { () throws(BlockIOError) in try writer.run(last) }
      }
      run = MappingRun(virtualBlock: key, dataBlock: dataBlock, length: 1, time: mapping.time)
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
