public import BlockIO
public import ThinFormat

/// The facts about a thin device. Numbers come from disk and may have any value.
public struct LsRow: Equatable, Sendable {
  /// The device's id.
  public var deviceID: ThinID
  /// Mapped blocks; nil if not counted.
  public var mapped: UInt64?
  /// Mapped blocks that no other device maps; nil if not counted.
  public var exclusive: UInt64?
  /// Mapped blocks that other devices map too; nil if not counted.
  public var shared: UInt64?
  /// The last mapped block; nil if there is none, or if it was not looked for.
  public var highest: VirtualBlock?
  /// Transaction id at the device's creation.
  public var transaction: UInt64
  /// The pool's time when the device was created.
  public var createTime: UInt64
  /// The pool's time when a snapshot of it was last taken.
  public var snapTime: UInt64

  /// A device.
  public init(
    deviceID: ThinID, mapped: UInt64? = nil, exclusive: UInt64? = nil, shared: UInt64? = nil,
    highest: VirtualBlock? = nil, transaction: UInt64 = 0, createTime: UInt64 = 0,
    snapTime: UInt64 = 0
  ) {
    self.deviceID = deviceID
    self.mapped = mapped
    self.exclusive = exclusive
    self.shared = shared
    self.highest = highest
    self.transaction = transaction
    self.createTime = createTime
    self.snapTime = snapTime
  }
}

/// A column of `thin_ls`.
public enum LsField: String, CaseIterable, Sendable {
  case device = "DEV"
  case mappedBlocks = "MAPPED_BLOCKS"
  case exclusiveBlocks = "EXCLUSIVE_BLOCKS"
  case sharedBlocks = "SHARED_BLOCKS"
  case highestBlock = "HIGHEST_BLOCK"
  case mappedSectors = "MAPPED_SECTORS"
  case exclusiveSectors = "EXCLUSIVE_SECTORS"
  case sharedSectors = "SHARED_SECTORS"
  case highestSector = "HIGHEST_SECTOR"
  case mappedBytes = "MAPPED_BYTES"
  case exclusiveBytes = "EXCLUSIVE_BYTES"
  case sharedBytes = "SHARED_BYTES"
  case highestByte = "HIGHEST_BYTE"
  case mapped = "MAPPED"
  case exclusive = "EXCLUSIVE"
  case shared = "SHARED"
  case highestMapped = "HIGHEST_MAPPED"
  case transaction = "TRANSACTION"
  case createTime = "CREATE_TIME"
  case snapTime = "SNAP_TIME"

  /// The default columns.
  public static let standard: [LsField] = [.device, .mapped, .createTime, .snapTime]

  /// The parts of the pool to read for a field.
  public enum Source: Sendable {
    /// The device details tree.
    case details
    /// The number of mappings, from the details tree if that is trusted.
    case mappingCount
    /// The last entry of the device's mapping tree.
    case lastMapping
    /// All mappings of the pool.
    case allMappings
  }

  /// The parts of the pool to read for the field.
  public var source: Source {
    switch quantity {
    case .device, .transaction, .createTime, .snapTime: .details
    case .mapped: .mappingCount
    case .highest: .lastMapping
    case .exclusive, .shared: .allMappings
    }
  }

  /// The meaning of the field, for help.
  public var meaning: String {
    let subject =
      switch quantity {
      case .device: "id of the thin device"
      case .mapped: "space mapped by the device"
      case .exclusive: "mapped space that no other device shares"
      case .shared: "mapped space that other devices share"
      case .highest: "end of the device's last mapped block"
      case .transaction: "transaction id when the device was created"
      case .createTime: "the pool's time when the device was created"
      case .snapTime: "the pool's time when a snapshot of it was last taken"
      }
    return switch unit {
    case .none: subject
    case .blocks where quantity == .highest: "number of the last data block mapped"
    case .sectors where quantity == .highest: "number of the last sector mapped"
    case .bytes where quantity == .highest: "number of the last byte mapped"
    case .blocks: subject + ", in data blocks"
    case .sectors: subject + ", in sectors of 512 bytes"
    case .bytes: subject + ", in bytes"
    case .pretty: subject + ", in a suitable unit"
    }
  }

  enum Quantity {
    case device, mapped, exclusive, shared, highest, transaction, createTime, snapTime
  }
  enum Unit { case none, blocks, sectors, bytes, pretty }

  var quantity: Quantity {
    switch self {
    case .device: .device
    case .mappedBlocks, .mappedSectors, .mappedBytes, .mapped: .mapped
    case .exclusiveBlocks, .exclusiveSectors, .exclusiveBytes, .exclusive: .exclusive
    case .sharedBlocks, .sharedSectors, .sharedBytes, .shared: .shared
    case .highestBlock, .highestSector, .highestByte, .highestMapped: .highest
    case .transaction: .transaction
    case .createTime: .createTime
    case .snapTime: .snapTime
    }
  }

  var unit: Unit {
    switch self {
    case .device, .transaction, .createTime, .snapTime: .none
    case .mappedBlocks, .exclusiveBlocks, .sharedBlocks, .highestBlock: .blocks
    case .mappedSectors, .exclusiveSectors, .sharedSectors, .highestSector: .sectors
    case .mappedBytes, .exclusiveBytes, .sharedBytes, .highestByte: .bytes
    case .mapped, .exclusive, .shared, .highestMapped: .pretty
    }
  }

  /// The value of the field for `row`; nil if it is unknown, or exceeds 64 bits. Sizes are in the
  /// field's unit, or in bytes. `HIGHEST` ones are the number of the last unit.
  public func number(_ row: LsRow, dataBlockSectors: UInt32) -> UInt64? {
    let blocks: UInt64?
    switch quantity {
    case .device: return row.deviceID.rawValue
    case .transaction: return row.transaction
    case .createTime: return row.createTime
    case .snapTime: return row.snapTime
    case .mapped: blocks = row.mapped
    case .exclusive: blocks = row.exclusive
    case .shared: blocks = row.shared
    case .highest: blocks = row.highest?.rawValue
    }
    guard let blocks else { return nil }
    let scale: UInt64 =
      switch unit {
      case .none, .blocks: 1
      case .sectors: UInt64(dataBlockSectors)
      case .bytes, .pretty: UInt64(dataBlockSectors) * 512
      }
    guard quantity == .highest else { return product(blocks, scale) }
    // The last unit of block n is the one before the first of block n + 1.
    guard let first = product(blocks, scale), scale > 0 else { return nil }
    let (last, overflow) = first.addingReportingOverflow(scale - 1)
    return overflow ? nil : last
  }
}

private func product(_ a: UInt64, _ b: UInt64) -> UInt64? {
  let (value, overflow) = a.multipliedReportingOverflow(by: b)
  return overflow ? nil : value
}

/// The table that `thin_ls` prints: each column as wide as its widest cell, aligned right, and
/// followed by a space.
public struct LsTable: Sendable {
  private let fields: [LsField]
  private let hasHeaders: Bool
  private let dataBlockSectors: UInt32

  /// A table of `fields`, in this order; repetitions are allowed.
  public init(fields: [LsField], hasHeaders: Bool, dataBlockSectors: UInt32) {
    self.fields = fields
    self.hasHeaders = hasHeaders
    self.dataBlockSectors = dataBlockSectors
  }

  /// Writes `rows`. Iterates over them twice, and keeps no cells.
  public func write(_ rows: some Collection<LsRow>, to sink: ByteSink) throws(BlockIOError) {
    if fields.isEmpty { return }
    var widths = fields.map { hasHeaders ? $0.rawValue.utf8.count : 0 }
    for row in rows {
      for (column, field) in fields.enumerated() {
        widths[column] = max(widths[column], cell(field, row).utf8.count)
      }
    }
    if hasHeaders { try write(fields.map(\.rawValue), widths: widths, to: sink) }
    for row in rows {
      for (column, field) in fields.enumerated() {
        try write(cell(field, row), width: widths[column], to: sink)
      }
      try sink.write("\n")
    }
  }

  /// The text of a cell: `-` if the number is unknown or too large.
  public func cell(_ field: LsField, _ row: LsRow) -> String {
    var row = row
    // The original tool shows block 0 as the highest of a device without mappings.
    if row.highest == nil { row.highest = 0 }
    guard let number = field.number(row, dataBlockSectors: dataBlockSectors) else { return "-" }
    return field.unit == .pretty ? prettySize(bytes: number) : String(number)
  }

  private func write(_ cells: [String], widths: [Int], to sink: ByteSink) throws(BlockIOError) {
    for (cell, width) in zip(cells, widths) { try write(cell, width: width, to: sink) }
    try sink.write("\n")
  }

  private func write(_ cell: String, width: Int, to sink: ByteSink) throws(BlockIOError) {
    for _ in cell.utf8.count..<width { try sink.write(" ") }
    try sink.write(cell)
    try sink.write(" ")
  }
}
