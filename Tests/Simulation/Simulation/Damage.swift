import ThinFormat

/// One random damage to an image.
public struct Damage: Sendable, CustomStringConvertible {
  /// The kind of damage.
  public enum Action: String, CaseIterable, Sendable {
    /// One bit is inverted.
    case flip
    /// The block, or 512 bytes of it, is set to zero.
    case zero
    /// Two blocks are exchanged.
    case swap
    /// Another block's content is written here.
    case misdirect
    /// An earlier node's content is written here, as if a write was lost.
    case stale
    /// One field gets another value.
    case field
    /// The device is truncated.
    case truncate
  }

  /// The kind of damage.
  public let action: Action
  /// The damaged block.
  public let block: UInt64
  /// The role of the block.
  public let role: BlockCatalogue.Role
  /// The field, for `field`.
  public let field: String?
  /// Whether number and checksum were corrected afterwards.
  public let isResealed: Bool

  /// The description in reports.
  public var description: String {
    "\(action) of block \(block) (\(role)\(field.map { ", \($0)" } ?? ""))"
      + (isResealed ? ", checksum corrected" : "")
  }

  /// Why no checker can detect damage with a corrected checksum; nil if one can. The changed value
  /// has no redundancy on disk.
  ///
  /// That is true for some fields, and for two exchanged nodes of mapping trees if both cover the
  /// same range and map as many blocks: the two devices have exchanged mappings.
  public var anotherSoundPool: String? {
    guard isResealed else { return nil }
    if let field { return Self.unconfirmedFields.contains(field) ? field : nil }
    if action == .swap, case .node(.mappings, _) = role { return "exchanged mapping nodes" }
    return nil
  }

  private static let unconfirmedFields: Set<String> = [
    "superblock.uuidLow", "superblock.uuidHigh", "superblock.version", "superblock.flags",
    "superblock.time", "superblock.transactionID", "superblock.dataBlockSectors",
    "superblock.dataSpaceMap.blockCount", "details.transactionID", "details.creationTime",
    "details.snapshottedTime", "mapping.time", "mapping.key",
  ]
}

/// Makes random damage to an image, and reverts it.
public struct DamageGenerator {
  /// The image.
  public let device: MemoryDevice
  private let catalogue: BlockCatalogue
  private let roles: [BlockCatalogue.Role]

  /// A generator for a sound image.
  public init(_ device: MemoryDevice) throws {
    self.device = device
    catalogue = try BlockCatalogue(device)
    roles = catalogue.blocks.keys.sorted { "\($0)" < "\($1)" }
  }

  /// Damages the image; `device.revert()` reverts that. All roles have equal probability, whatever
  /// the number of their blocks.
  public func damage(_ random: inout some RandomNumberGenerator) -> Damage {
    let action = Damage.Action.allCases.randomElement(using: &random) ?? .flip
    let role = roles.randomElement(using: &random) ?? .superblock
    let block = pick(role, &random)
    var resealed = Bool.random(using: &random)
    var field: String?
    switch action {
    case .flip:
      let bytes = device.edit(block)
      let at = Int.random(in: 0..<(bytes.count * 8), using: &random)
      bytes[at / 8] ^= 1 << UInt8(at % 8)
      // Inverting a random bit with a corrected checksum is the same as `field`.
      resealed = false
    case .zero:
      let bytes = device.edit(block)
      let sector = Int.random(in: 0...8, using: &random)
      let range = sector == 8 ? 0..<bytes.count : (sector * 512)..<(sector * 512 + 512)
      if bytes[range].allSatisfy({ $0 == 0 }) {
        for i in 0..<bytes.count { bytes[i] = 0 }
      }
      for i in range { bytes[i] = 0 }
      resealed = false
    case .swap:
      let other = pick(roles.randomElement(using: &random) ?? role, &random)
      exchange(block, other)
      if resealed {
        reseal(block)
        reseal(other)
      }
    case .misdirect:
      let other = pick(roles.randomElement(using: &random) ?? role, &random)
      copy(other, to: block)
      if resealed { reseal(block) }
    case .stale:
      if let old = catalogue.stale.randomElement(using: &random) { copy(old, to: block) }
      if resealed { reseal(block) }
    case .field:
      field = change(block, role, &random)
      if resealed { reseal(block, keepsNumber: field?.hasSuffix("blockNumber") ?? false) }
      if field == nil { resealed = false }
    case .truncate:
      resealed = false
      let used = Int(catalogue.roles.keys.max() ?? 0)
      device.truncate(blocks: Int.random(in: 0...used, using: &random))
    }
    return Damage(action: action, block: block, role: role, field: field, isResealed: resealed)
  }

  private func pick(_ role: BlockCatalogue.Role, _ random: inout some RandomNumberGenerator)
    -> UInt64
  {
    catalogue.blocks[role]?.randomElement(using: &random) ?? 0
  }

  private func copy(_ from: UInt64, to block: UInt64) {
    let source = Array(device.peek(from))
    source.withUnsafeBytes { device.edit(block).copyMemory(from: $0) }
  }

  private func exchange(_ a: UInt64, _ b: UInt64) {
    let (first, second) = (Array(device.peek(a)), Array(device.peek(b)))
    first.withUnsafeBytes { device.edit(b).copyMemory(from: $0) }
    second.withUnsafeBytes { device.edit(a).copyMemory(from: $0) }
  }

  /// Corrects number and checksum according to the kind that the block's content suggests.
  private func reseal(_ block: UInt64, keepsNumber: Bool = false) {
    let bytes = device.edit(block)
    let kind: BlockKind =
      switch catalogue.roles[block] {
      case .superblock, .metadataSnapshot: .superblock
      case .dataBitmap, .metadataBitmap: .bitmap
      case .index: .index
      default: .btreeNode
      }
    if keepsNumber {
      BlockHeader.reseal(bytes, kind: kind)
    } else {
      BlockHeader.seal(bytes, number: block, kind: kind)
    }
  }

  // MARK: - Fields

  private func change(
    _ block: UInt64, _ role: BlockCatalogue.Role, _ random: inout some RandomNumberGenerator
  ) -> String? {
    // The flags of superblock and nodes are in the lists of their own fields.
    var places = BlockHeader.fields.filter { $0.name != "flags" }.map { ($0, 0, "") }
    switch role {
    case .superblock, .metadataSnapshot:
      places += SuperblockRecord.fields.map { ($0, 0, "superblock.") }
      if role == .superblock {
        let (data, metadata) = (
          SuperblockRecord.dataSpaceMapOffset, SuperblockRecord.metadataSpaceMapOffset
        )
        places += SpaceMapRoot.fields.map { ($0, data, "superblock.dataSpaceMap.") }
        places += SpaceMapRoot.fields.map { ($0, metadata, "superblock.metadataSpaceMap.") }
      }
    case .dataBitmap, .metadataBitmap:
      return changeBitmap(block, &random)
    case .index:
      places += IndexEntry.fields.map { ($0, IndexBlock.offset(ofEntry: 0), "index.") }
    case .node(let kind, let isLeaf):
      places += BtreeNodeRecord.fields.map { ($0, 0, "node.") }
      if let name = changeEntry(block, kind, isLeaf, &random) { return name }
    }
    guard let (place, base, prefix) = places.randomElement(using: &random) else { return nil }
    set(device.edit(block), base + place.offset, place.byteCount, &random)
    return prefix + place.name
  }

  private func changeBitmap(_ block: UInt64, _ random: inout some RandomNumberGenerator)
    -> String?
  {
    let bytes = device.edit(block)
    let entry = Int.random(in: 0..<Limits.entriesPerBitmap, using: &random)
    let old = Bitmap.count(RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)), entry)
    Bitmap.setCount(bytes, entry, (old + UInt8.random(in: 1...3, using: &random)) & 3)
    return "bitmap.entry"
  }

  /// Changes a key or value; returns nil to change the header instead.
  private func changeEntry(
    _ block: UInt64, _ kind: TreeKind, _ isLeaf: Bool, _ random: inout some RandomNumberGenerator
  ) -> String? {
    let bytes = device.edit(block)
    let span = RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes))
    guard
      let node = try? BtreeNodeView(
        validating: span, number: block, leafValueSize: kind.valueSize),
      node.entryCount > 0, UInt8.random(in: 0..<4, using: &random) > 0
    else { return nil }
    let entry = Int.random(in: 0..<node.entryCount, using: &random)
    if Bool.random(using: &random) {
      set(bytes, BtreeNodeRecord.keysOffset + 8 * entry, 8, &random)
      return isLeaf && kind == .mappings ? "mapping.key" : "\(kind).key"
    }
    let at = node.valueOffset(entry)
    guard isLeaf else {
      set(bytes, at, 8, &random)
      return "\(kind).child"
    }
    switch kind {
    case .mappings:
      let time = Bool.random(using: &random)
      set(bytes, time ? at : at + 3, time ? 3 : 5, &random)
      return time ? "mapping.time" : "mapping.dataBlock"
    case .details:
      guard let field = DeviceDetails.fields.randomElement(using: &random) else { return nil }
      set(bytes, at + field.offset, field.byteCount, &random)
      return "details." + field.name
    case .spaceMapIndex:
      guard let field = IndexEntry.fields.randomElement(using: &random) else { return nil }
      set(bytes, at + field.offset, field.byteCount, &random)
      return "index." + field.name
    case .devices, .spaceMapOverflow:
      set(bytes, at, kind.valueSize, &random)
      return "\(kind).value"
    }
  }

  /// Sets a little-endian number to a near, extreme or random value that differs from the old one.
  private func set(
    _ bytes: UnsafeMutableRawBufferPointer, _ at: Int, _ count: Int,
    _ random: inout some RandomNumberGenerator
  ) {
    var old: UInt64 = 0
    for i in (0..<count).reversed() { old = old << 8 | UInt64(bytes[at + i]) }
    let mask: UInt64 = count == 8 ? .max : (1 << UInt64(count * 8)) - 1
    let choices: [UInt64] = [
      old &+ 1, old &- 1, old ^ (1 << UInt64.random(in: 0..<UInt64(count * 8), using: &random)),
      0, mask, UInt64.random(in: 0...mask, using: &random),
      UInt64.random(in: 0...min(mask, 4096), using: &random),
    ]
    var new = (choices.randomElement(using: &random) ?? 0) & mask
    if new == old { new = (old &+ 1) & mask }
    for i in 0..<count { bytes[at + i] = UInt8(truncatingIfNeeded: new >> UInt64(8 * i)) }
  }
}
