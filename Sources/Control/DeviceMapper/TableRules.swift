/// The restrictions of a target type on its tables.
public struct TargetTraits: OptionSet, Hashable, Sendable {
  /// The set as bits.
  public let rawValue: UInt8
  /// A set from its bits.
  public init(rawValue: UInt8) { self.rawValue = rawValue }
  /// It must be alone in its table.
  public static let singleton = TargetTraits(rawValue: 1)
  /// It must not be in a read-only table.
  public static let alwaysWritable = TargetTraits(rawValue: 2)
  /// Once live, it can be replaced only by the same type.
  public static let immutable = TargetTraits(rawValue: 4)
  /// It may replace any type.
  public static let wildcard = TargetTraits(rawValue: 8)
}

/// The table rules that hold for every target type.
public enum TableRules {
  /// The highest number of lines.
  public static let linesMax = 1_048_576
  /// The highest number of sectors of a device.
  public static let sectorsMax: UInt64 = (1 << 63) >> 9

  /// Checks a table on load, line by line, and creates each target once its line has passed.
  /// - Parameters:
  ///   - live: the type of the immutable target in the live table, if there is one.
  ///   - traits: returns the traits of a type; nil for an unknown type.
  ///   - make: creates a target; throws its constructor's error.
  /// - Throws: the first fault, in the kernel's words and order.
  public static func check(
    _ table: [TableLine], isReadOnly: Bool = false, live: String? = nil,
    traits: (String) -> TargetTraits?,
    make: (TableLine) throws(TargetError) -> Void
  ) throws(TargetError) {
    guard !table.isEmpty else { throw TargetError("populate_table: no targets specified") }
    guard table.count <= linesMax else { throw TargetError("too many targets", code: 12) }
    var end: UInt64 = 0
    var singleton: String?
    var immutable: String?
    var hasWildcard = false
    for (index, line) in table.enumerated() {
      if let singleton {
        throw TargetError("target type \(singleton) must appear alone in table")
      }
      guard line.length > 0 else { throw TargetError("zero-length target") }
      let (last, overflow) = line.start.addingReportingOverflow(line.length)
      guard !overflow, last < sectorsMax else { throw TargetError("too large device") }
      guard let type = traits(line.type) else {
        throw TargetError("\(line.type): unknown target type")
      }
      func refuse(_ text: String) -> TargetError { TargetError("\(line.type): \(text)") }
      if type.contains(.singleton) {
        guard index == 0 else {
          throw refuse("singleton target type must appear alone in table")
        }
        singleton = line.type
      }
      if type.contains(.alwaysWritable), isReadOnly {
        throw refuse("target type may not be included in a read-only table")
      }
      if let immutable {
        guard immutable == line.type else {
          throw refuse("immutable target type cannot be mixed with other target types")
        }
      } else if type.contains(.immutable) {
        guard index == 0 else {
          throw refuse("immutable target type cannot be mixed with other target types")
        }
        immutable = line.type
      }
      hasWildcard = hasWildcard || type.contains(.wildcard)
      guard line.start == end else { throw refuse("Gap in table") }
      try make(line)
      end = last
    }
    if let live, live != immutable, !hasWildcard {
      throw TargetError("can't replace immutable target type \(live)")
    }
  }
}
