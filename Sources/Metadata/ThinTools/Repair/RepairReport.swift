public import ThinFormat

/// What a repair saved of each thin device, and what it did not.
public struct RepairReport: Equatable, Sendable {
  /// Virtual blocks of a device that are lost, doubtful or adopted.
  public struct Range: Equatable, Sendable {
    /// What happened to the blocks.
    public enum Kind: String, Sendable, CaseIterable {
      /// What was mapped here is lost.
      case lost
      /// What is mapped here may not be what the device had last.
      case doubtful
      /// The tree did not lead here any more; what it led to was found and put back.
      case adopted
    }

    /// What happened to the blocks.
    public var kind: Kind
    /// The first virtual block.
    public var begin: VirtualBlock
    /// Above the last one; nil where it is not known how far the device reached.
    public var end: VirtualBlock?
    /// The metadata block that is the cause.
    public var block: MetadataBlock
  }

  /// A thin device that is in the result.
  public struct Device: Equatable, Sendable {
    /// Its id.
    public var id: ThinID
    /// Mappings that are in the result.
    public var saved: UInt64
    /// Mappings that it had, by its details; nil where those are lost.
    public var expected: UInt64?
    /// Whether its details are made up.
    public var hasNewDetails = false
    /// In the order of virtual blocks, `rangesMax` of them at most.
    public var ranges: [Range] = []
    /// How many more there are.
    public var unsaidRanges = 0

    /// Ranges that are kept of a device.
    var rangesMax = 1000

    /// Whether everything that it had is in the result, for certain.
    public var isWhole: Bool {
      expected == saved && !hasNewDetails && !ranges.contains { $0.kind != .adopted }
    }

    /// Adds a range, or makes the last one longer.
    mutating func add(
      _ kind: Range.Kind, _ range: Swift.Range<VirtualBlock>, block: MetadataBlock
    ) {
      let end = range.upperBound.rawValue == .max ? nil : range.upperBound
      if let last = ranges.last, last.kind == kind, last.end == range.lowerBound {
        ranges[ranges.count - 1].end = end
      } else if ranges.count < rangesMax {
        ranges.append(Range(kind: kind, begin: range.lowerBound, end: end, block: block))
      } else {
        unsaidRanges += 1
      }
    }
  }

  /// A mapping tree that is not in the result.
  public struct LeftOut: Equatable, Sendable {
    /// The device, where it is known.
    public var id: ThinID?
    /// The metadata block of its root; nil where that is lost.
    public var root: MetadataBlock?
    /// Mappings that could be saved of it.
    public var mapped: UInt64
  }

  /// A part of a mapping tree that fits into a device's, but not for certain, and is not in the result.
  public struct Unclear: Equatable, Sendable {
    /// The metadata block of its root.
    public var block: MetadataBlock
    /// Its first virtual block.
    public var begin: VirtualBlock
    /// Above its last one.
    public var end: VirtualBlock
    /// Mappings.
    public var mapped: UInt64
    /// The devices into whose tree it fits.
    public var ids: [ThinID]
  }

  /// What became of the metadata snapshot.
  public enum Snapshot: String, Sendable {
    /// There was none.
    case none
    /// It is in the result.
    case kept
    /// It is damaged, or of another generation, and is not in the result.
    case dropped
  }

  /// Devices that are in the result, by id.
  public var devices: [Device] = []
  /// Devices that are not.
  public var leftOut: [LeftOut] = []
  /// Parts of mapping trees that fit, but not for certain.
  public var unclear: [Unclear] = []
  /// What became of the metadata snapshot.
  public var snapshot = Snapshot.none
  /// Sectors of a data block.
  public var dataBlockSectors: UInt32 = 0
  /// A line for everything that could not be saved, and for every guess.
  public var notes: [String] = []

  /// Mappings of all devices that are in the result.
  var savedCount: UInt64 { devices.reduce(0) { $0 &+ $1.saved } }

  /// Whether everything is saved, for certain.
  public var isWhole: Bool {
    devices.allSatisfy(\.isWhole) && leftOut.isEmpty && snapshot != .dropped
  }
}
