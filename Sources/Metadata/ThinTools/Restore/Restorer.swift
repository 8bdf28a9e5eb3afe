import BlockIO
import PersistentData
import ThinFormat

/// Converts the XML of a pool, as it is read, into metadata blocks; or only checks it.
///
/// Invariant: from `beginSuperblock` to the end of `finish`, the output's superblock is zero, or
/// that of the old metadata, none of whose blocks has been overwritten.
final class Restorer: PoolXmlHandler {
  /// The place of new blocks.
  enum Place {
    /// None: the XML is only checked.
    case nowhere
    /// From block 1 on, after the old superblock was zeroed.
    case fromStart
    /// In blocks that the old metadata does not use.
    case beside(SoundMetadata)
    /// On another device than the output, from block 1 on.
    case scratch(ScratchDevice)

    var isNowhere: Bool { if case .nowhere = self { true } else { false } }
  }

  private let output: any BlockDevice
  private let place: Place
  private let options: RestoreOptions
  private static let warningsMax = 20
  private var warnings: [String] = []
  /// The number of warnings that are not kept.
  private var unsaid = 0
  private var superblock = Superblock()
  private var engine: Engine?
  /// A copy of the engine's builder, because every mapping needs it.
  private var builder: MappingTreeBuilder?

  /// The state that exists once the superblock is known.
  private struct Engine {
    let writer: SequentialBlockWriter
    let metadataCounts: ReferenceCounts
    let dataCounts: ReferenceCounts
    let builder: MappingTreeBuilder
  }

  /// A parsed `<def>`.
  private struct Def {
    /// Nil if nothing is written.
    let shared: SharedNodes?
    let mappingCount: UInt64
    let firstKey: UInt64
    /// One above the last key.
    let keyEnd: UInt64
  }

  private struct Device: Equatable {
    let id: UInt32
    let root: UInt64
    let details: DeviceDetails
  }

  private var defs: [Def] = []
  private var defIndex: [String: Int32] = [:]
  private var devices: [Device] = []
  /// The superblock of a metadata snapshot to be written too.
  private var held: Superblock?
  private var heldDevices: [Device] = []
  /// The roots of devices that consist of refs only, by their refs.
  private var rootOfRefs: [[Int32]: UInt64] = [:]
  /// The number of refs in `rootOfRefs`, limited by `keptRefsMax`.
  private var keptRefCount = 0
  private static let keptRefsMax = 1 << 20

  // The current def or device.
  private var defName = ""
  private var current = PoolXmlDevice()
  private var firstKey: UInt64 = 0
  private var keyEnd: UInt64 = 0
  private var mappingCount: UInt64 = 0
  /// Refs at the start of a device, not passed to the builder yet.
  private var leadingRefs: [Int32] = []
  private var isDevice = false
  private var totalCount: UInt64 = 0
  // The limits for mappings.
  private var dataBlockCount: UInt64 = 0
  private var timeMax: UInt32 = 0

  init(output: any BlockDevice, options: RestoreOptions, place: Place) {
    self.output = output
    self.place = place
    self.options = options
  }

  // MARK: Superblock

  func beginSuperblock(_ xml: PoolXmlSuperblock) throws(ToolError) {
    try take(xml)
    let blockCount = min(output.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)
    let per = UInt64(Limits.entriesPerBitmap)
    // The superblock, the index block, five roots, and the bitmaps of both space maps at least.
    let least = 7 + (dataBlockCount + per - 1) / per + (blockCount + per - 1) / per
    if case .scratch = place {} else if least > blockCount { throw full(needed: least) }
    superblock.metadataBlockCount = blockCount
    let writer: SequentialBlockWriter
    // The end of the block numbers used while counting the blocks needed.
    var numberEnd = blockCount
    switch place {
    case .nowhere: return
    case .fromStart: writer = SequentialBlockWriter(output, blockCount: blockCount)
    case .beside(let old):
      numberEnd = 2 * blockCount
      writer = Self.writer(beside: old, output, blockCount: blockCount)
    case .scratch(let device):
      numberEnd = Limits.metadataBlocksMax
      writer = SequentialBlockWriter(device, blockCount: numberEnd)
    }
    let metadataCounts = ReferenceCounts(blockCount: numberEnd)
    let dataCounts = ReferenceCounts(blockCount: dataBlockCount)
    metadataCounts.increment(0)
    let builder = MappingTreeBuilder(
      writer: writer, metadataCounts: metadataCounts, dataCounts: dataCounts)
    self.builder = builder
    engine = Engine(
      writer: writer, metadataCounts: metadataCounts, dataCounts: dataCounts, builder: builder)
    if case .fromStart = place { try unsafe writeSuperblock { _ in } }
  }

  /// A writer into blocks that the old metadata does not use. When they are used up it continues
  /// beyond the end, to count how many are needed: at most as many as the output has.
  private static func writer(
    beside old: SoundMetadata, _ output: any BlockDevice, blockCount: UInt64
  ) -> SequentialBlockWriter {
    var next: UInt64 = 1
    var behind = blockCount
    var count: UInt64 = 0
    let device = OverflowingDevice(output, blockCount: blockCount)
    return SequentialBlockWriter(device) {
      count += 1
      guard count < blockCount else { return nil }
      while next < blockCount {
        next += 1
        if old.counts.count(of: next - 1) == 0 { return next - 1 }
      }
      behind += 1
      return behind - 1
    }
  }

  /// Checks the superblock's fields and applies the options.
  private func take(_ xml: PoolXmlSuperblock) throws(ToolError) {
    superblock.dataBlockSectors = options.dataBlockSectors ?? xml.dataBlockSectors
    guard Limits.isDataBlockSize(superblock.dataBlockSectors) else {
      throw ToolError(
        .invalidDump,
        "invalid data block size: expected 128 to 2097152 sectors in multiples of 128, found "
          + "\(superblock.dataBlockSectors)")
    }
    guard xml.version == 1 || xml.version == 2 else {
      throw ToolError(.invalidDump, "expected metadata version 1 or 2, found \(xml.version)")
    }
    dataBlockCount = max(xml.dataBlockCount, options.dataBlockCount ?? 0)
    guard dataBlockCount <= Limits.dataBlocksMax else {
      throw ToolError(
        .invalidDump,
        "expected at most \(Limits.dataBlocksMax) data blocks, found \(dataBlockCount)")
    }
    superblock.transactionID = max(xml.transactionID, options.transactionID ?? 0)
    superblock.version = xml.version
    superblock.flags = xml.flags
    superblock.time = xml.time
    guard xml.time <= Limits.timeMax else {
      throw ToolError(
        .invalidDump, "expected a time of at most \(Limits.timeMax), found \(xml.time)")
    }
    timeMax = xml.time
    if let uuid = PoolUUID.parse(xml.uuid) {
      superblock.uuid = uuid
    } else {
      warn("uuid '\(xml.uuid)' is not one of 32 hexadecimal digits, zero is written")
    }
    if let block = xml.metadataSnapshot, block != 0 {
      warn("the metadata snapshot at block \(block) cannot be restored from XML")
    }
  }

  func endSuperblock() {}

  // MARK: Defs and devices

  func beginDef(name: String) throws(ToolError) {
    guard defIndex[name] == nil else { throw ToolError(.invalidDump, "second def '\(name)'") }
    defName = name
    begin(isDevice: false)
  }

  func endDef() throws(ToolError) {
    let shared: SharedNodes? =
      if let engine {
        try written { () throws(BlockWriteError) in try engine.builder.finishShared() }
      } else {
        nil
      }
    defIndex[defName] = Int32(defs.count)
    defs.append(
      Def(shared: shared, mappingCount: mappingCount, firstKey: firstKey, keyEnd: keyEnd))
  }

  func beginDevice(_ device: PoolXmlDevice) throws(ToolError) {
    guard device.id <= .max else {
      throw ToolError(
        .invalidDump, "device id \(device.id) is above the largest, \(Limits.deviceIDMax)")
    }
    guard knownDevices.insert(UInt32(device.id.rawValue)).inserted else {
      throw ToolError(.invalidDump, "second device with id \(device.id)")
    }
    let latest = max(device.creationTime, device.snapshottedTime)
    if latest > superblock.time {
      guard latest <= Limits.timeMax else {
        throw ToolError(
          .invalidDump,
          "device \(device.id) has a time of \(latest), expected at most \(Limits.timeMax)")
      }
      // A time later than any mapping's is harmless; only the pool's own time must be raised to it.
      warn(
        "device \(device.id) has a time of \(latest), later than the pool's \(superblock.time); "
          + "the pool's time is raised")
      superblock.time = latest
    }
    current = device
    begin(isDevice: true)
  }

  private var knownDevices: Set<UInt32> = []

  func endDevice() throws(ToolError) {
    // Edited and generated dumps have a wrong count, and 0.9.0 accepts them.
    if mappingCount != current.mappedBlocks {
      warn(
        "device \(current.id) has \(mappingCount) mappings, but mapped_blocks says "
          + "\(current.mappedBlocks); the real number is written")
    }
    guard let engine else {
      leadingRefs = []
      return
    }
    let root: UInt64
    if leadingRefs.isEmpty {
      root = try written { () throws(BlockWriteError) in try engine.builder.finishTree() }
    } else {
      root = try finishRefs(engine)
    }
    engine.metadataCounts.increment(root)
    let device = Device(
      id: UInt32(current.id.rawValue), root: root,
      details: DeviceDetails(
        mappedBlocks: mappingCount, transactionID: current.transactionID,
        creationTime: current.creationTime, snapshottedTime: current.snapshottedTime))
    if held != nil {
      heldDevices.append(device)
    } else {
      totalCount += mappingCount
      devices.append(device)
    }
  }

  /// The devices that follow are those of the metadata snapshot with this superblock.
  func beginSnapshot(_ superblock: Superblock) {
    held = superblock
    knownDevices.removeAll()
  }

  private func begin(isDevice: Bool) {
    self.isDevice = isDevice
    firstKey = 0
    keyEnd = 0
    mappingCount = 0
  }

  /// Ends a device that consists of refs only: the same refs make the same tree.
  private func finishRefs(_ engine: Engine) throws(ToolError) -> UInt64 {
    let refs = leadingRefs
    if let root = rootOfRefs[refs] {
      leadingRefs = []
      return root
    }
    try appendLeadingRefs()
    let root = try written { () throws(BlockWriteError) in try engine.builder.finishTree() }
    if keptRefCount + refs.count <= Self.keptRefsMax {
      keptRefCount += refs.count
      rootOfRefs[refs] = root
    }
    return root
  }

  // MARK: Mappings and refs

  func mapping(_ run: PoolXmlMapping) throws(ToolError) {
    let (thinBegin, dataBegin) = (run.thinBegin.rawValue, run.dataBegin.rawValue)
    let (thinEnd, thinOverflow) = thinBegin.addingReportingOverflow(run.length)
    guard
      thinBegin >= keyEnd, run.length > 0, !thinOverflow,
      dataBegin < dataBlockCount, run.length <= dataBlockCount - dataBegin,
      run.time <= timeMax
    else { throw refusal(of: run) }
    if mappingCount == 0 { firstKey = thinBegin }
    keyEnd = thinEnd
    mappingCount &+= run.length
    if !leadingRefs.isEmpty { try appendLeadingRefs() }
    do throws(BlockWriteError) {
      try builder?.append(run)
    } catch {
      throw toolError(error)
    }
  }

  private func refusal(of run: PoolXmlMapping) -> ToolError {
    let (_, overflow) = run.thinBegin.rawValue.addingReportingOverflow(run.length)
    let reason =
      if run.length == 0 {
        "a mapping of no blocks"
      } else if overflow {
        "mappings of \(run.length) blocks from \(run.thinBegin) on pass the last block"
      } else if run.thinBegin.rawValue < keyEnd {
        "keys out of order: found block \(run.thinBegin), expected at least \(keyEnd)"
      } else if run.time > Limits.timeMax {
        "time \(run.time) is above the largest, \(Limits.timeMax)"
      } else if run.time > timeMax {
        "a mapping from the future: its time is \(run.time), the pool's \(timeMax)"
      } else {
        "block out of bounds: data block \(run.dataBegin) and length \(run.length), the pool has "
          + "\(dataBlockCount) data blocks. "
          + (dataBlockCount == 0
            ? "Dumps of a metadata snapshot by other tools do not carry the number: give it with "
              + "--nr-data-blocks"
            : "--nr-data-blocks gives it more")
      }
    return ToolError(.invalidDump, reason)
  }

  func ref(name: String) throws(ToolError) {
    guard let index = defIndex[name] else {
      throw ToolError(.invalidDump, "ref to unknown def '\(name)'")
    }
    let def = defs[Int(index)]
    if def.mappingCount > 0 {
      guard def.firstKey >= keyEnd else {
        throw ToolError(
          .invalidDump,
          "keys out of order: def '\(name)' begins with block \(def.firstKey), expected at least "
            + "\(keyEnd)")
      }
      keyEnd = def.keyEnd
    }
    if mappingCount == 0 || !leadingRefs.isEmpty {
      leadingRefs.append(index)
    } else {
      try append(def)
    }
    mappingCount += def.mappingCount
  }

  private func appendLeadingRefs() throws(ToolError) {
    for index in leadingRefs { try append(defs[Int(index)]) }
    leadingRefs = []
  }

  private func append(_ def: Def) throws(ToolError) {
    guard let engine, let shared = def.shared else { return }
    try written { () throws(BlockWriteError) in try engine.builder.append(shared) }
  }

  // MARK: The end

  /// The outcome.
  enum Outcome {
    /// The new metadata is in place.
    case done(RestoreResult)
    /// Nothing that matters was written: this many blocks are needed, the superblock included.
    case tooFew(needed: UInt64)
  }

  /// Blocks of the result, the superblock included, once it is in place.
  private(set) var blocksUsed: UInt64 = 0

  /// Writes the rest, the superblock last.
  func finish() throws(ToolError) -> Outcome {
    guard let engine else { throw ToolError(.invalidDump, "no superblock") }
    var needed: UInt64?
    try written { () throws(BlockWriteError) in
      try engine.builder.releaseUnused(
        defs.lazy.flatMap { ($0.shared?.nodes ?? []).lazy.map(\.block) })
      try writeDevices(engine)
      needed = try writeMaps(engine)
      if needed == nil { try engine.writer.flush() }
    }
    blocksUsed = engine.writer.allocatedCount + 1
    if let needed { return .tooFew(needed: needed) }
    try unsafe writeSuperblock { block in
      unsafe superblock.encode(into: block)
      unsafe BlockHeader.seal(block, number: 0, kind: .superblock)
    }
    if case .beside(let old) = place { try forget(old) }
    return .done(
      RestoreResult(
        superblock: superblock, deviceCount: UInt64(devices.count), mappingCount: totalCount,
        warnings: warnings + (unsaid > 0 ? ["\(unsaid) more of that kind are not shown"] : [])))
  }

  /// Keeps a warning for the user; there may be one for each of millions of devices.
  private func warn(_ text: String) {
    if warnings.count < Self.warningsMax { warnings.append(text) } else { unsaid += 1 }
  }

  /// Writes both space maps.
  /// - Returns: nil, or the number of blocks needed if there were too few beside the old metadata.
  private func writeMaps(_ engine: Engine) throws(BlockWriteError) -> UInt64? {
    let blockCount = superblock.metadataBlockCount
    let maps = SpaceMapWriter(
      writer: engine.writer, metadataCounts: engine.metadataCounts, metadataBlockCount: blockCount)
    superblock.dataSpaceMap = try maps.writeDataMap(engine.dataCounts)
    switch place {
    case .nowhere, .fromStart: break
    case .beside(let old):
      let needed = try engine.writer.allocatedCount + maps.metadataMapBlocks() + 1
      guard needed - 1 <= old.freeCount(below: blockCount) else { return needed }
    case .scratch:
      let needed = try engine.writer.allocatedCount + maps.metadataMapBlocks() + 1
      guard needed <= blockCount else { return needed }
    }
    superblock.metadataSpaceMap = try maps.writeMetadataMap()
    return nil
  }

  /// Makes the old metadata invalid, once the new metadata is valid: if one device had two whole
  /// states, a later salvage would have to guess.
  private func forget(_ old: SoundMetadata) throws(ToolError) {
    let zeros = AlignedBuffer(count: Limits.blockBytes)
    do throws(BlockIOError) {
      for root in old.roots {
        try unsafe output.write(
          UnsafeRawBufferPointer(zeros.bytes), at: root * UInt64(Limits.blockBytes))
      }
      try output.flush()
    } catch {
      throw ToolError(error)
    }
  }

  private func writeDevices(_ engine: Engine) throws(BlockWriteError) {
    devices.sort { $0.id < $1.id }
    (superblock.mappingRoot, superblock.detailsRoot) = try writeTrees(of: devices, engine)
    guard var copy = held else { return }
    heldDevices.sort { $0.id < $1.id }
    if heldDevices == devices {
      // Nothing has changed since: both have the same trees.
      (copy.mappingRoot, copy.detailsRoot) = (superblock.mappingRoot, superblock.detailsRoot)
      for device in heldDevices { engine.metadataCounts.decrement(device.root) }
      for root in [copy.mappingRoot, copy.detailsRoot] { engine.metadataCounts.increment(root) }
    } else {
      (copy.mappingRoot, copy.detailsRoot) = try writeTrees(of: heldDevices, engine)
    }
    copy.metadataSnapshot = 0
    copy.dataSpaceMap = SpaceMapRoot()
    copy.metadataSpaceMap = SpaceMapRoot()
    copy.metadataBlockCount = superblock.metadataBlockCount
    superblock.metadataSnapshot = try engine.writer.allocate()
    engine.metadataCounts.increment(superblock.metadataSnapshot)
    try unsafe engine.writer.write(superblock.metadataSnapshot, kind: .superblock) { block in
      unsafe copy.encode(into: block)
    }
  }

  /// Writes both trees of devices. Returns their roots, with counts.
  private func writeTrees(of devices: [Device], _ engine: Engine) throws(BlockWriteError) -> (
    mapping: UInt64, details: UInt64
  ) {
    let details = BtreeBuilder(.details, writer: engine.writer, counts: engine.metadataCounts)
    let roots = BtreeBuilder(.devices, writer: engine.writer, counts: engine.metadataCounts)
    for device in devices {
      try unsafe details.append(key: UInt64(device.id)) { buffer, offset in
        unsafe device.details.encode(into: buffer, at: offset)
      }
      try unsafe roots.append(key: UInt64(device.id)) { buffer, offset in
        unsafe buffer.storeBytes(
          of: device.root.littleEndian, toByteOffset: offset, as: UInt64.self)
      }
    }
    let detailsRoot = try details.finish()
    return (try roots.finish(), detailsRoot)
  }

  /// Writes block 0, zeros except for the bytes that `fill` sets, and waits until it is durable.
  private func writeSuperblock(_ fill: (UnsafeMutableRawBufferPointer) -> Void) throws(ToolError) {
    let block = AlignedBuffer(count: Limits.blockBytes)
    let output = engine?.writer.device ?? output
    do throws(BlockIOError) {
      // Unused bytes stay unchanged, so that one sector has all changes: a power cut cannot leave a
      // mixture.
      if case .beside = place { try unsafe output.read(into: block.bytes, at: 0) }
      unsafe fill(block.bytes)
      try unsafe output.write(UnsafeRawBufferPointer(block.bytes), at: 0)
      try output.flush()
    } catch {
      throw ToolError(error)
    }
  }

  private func written<R>(_ body: () throws(BlockWriteError) -> R) throws(ToolError) -> R {
    do throws(BlockWriteError) {
      return try body()
    } catch {
      throw toolError(error)
    }
  }

  private func toolError(_ error: BlockWriteError) -> ToolError {
    switch error {
    case .device(let error): ToolError(error)
    case .full(let needed): full(needed: needed)
    }
  }

  private func full(needed: UInt64) -> ToolError {
    ToolError(
      .outOfSpace,
      "out of metadata space: \(output.path) has "
        + "\(min(output.byteCount / UInt64(Limits.blockBytes), Limits.metadataBlocksMax)) blocks "
        + "of 4096 bytes, more than \(needed - 1) are needed")
  }
}
