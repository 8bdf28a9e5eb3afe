public import DataPath

/// A destination as clients see it.
public final class Export {
  /// What clients ask for; at most 4096 bytes.
  public let name: String
  /// A line for people, which clients show in lists.
  public let summary: String
  /// Where requests go.
  public let destination: BlockDestination
  /// Whether writes are refused.
  public var isReadOnly: Bool { refusesWrites || destination.isReadOnly }
  /// Connections that use it.
  public private(set) var connections = 0
  private let refusesWrites: Bool
  private let opened: (Bool) -> Bool

  /// An export of `destination`, where nothing can be written if `isReadOnly` is set. `opened` is
  /// called with true when the first connection is to use it, and returns whether that is possible;
  /// with false when the last one has ended.
  public init(
    name: String, summary: String = "", destination: BlockDestination, isReadOnly: Bool = false,
    opened: @escaping (Bool) -> Bool = { _ in true }
  ) {
    self.name = name
    self.summary = summary
    self.destination = destination
    refusesWrites = isReadOnly
    self.opened = opened
  }

  /// Another connection begins; false if it cannot.
  func open() -> Bool {
    if connections == 0, !opened(true) { return false }
    connections += 1
    return true
  }

  func close() {
    connections -= 1
    if connections == 0 { _ = opened(false) }
  }

  /// What can be addressed: whole blocks.
  var byteCount: UInt64 {
    destination.byteCount & ~UInt64(destination.logicalBlockBytes - 1)
  }

  func flags(structured: Bool) -> Nbd.TransmissionFlags {
    var flags: Nbd.TransmissionFlags = [.hasFlags, .sendFlush, .sendFUA, .canMultiConn, .sendCache]
    if structured { flags.insert(.sendDF) }
    if isReadOnly {
      flags.insert(.readOnly)
    } else {
      flags.formUnion([.sendWriteZeroes, .sendFastZero])
      if destination.takesDiscards { flags.insert(.sendTrim) }
    }
    return flags
  }

  /// The size that requests had best have: a power of two from 4096 on.
  var preferredBytes: Int {
    let optimal = destination.optimalBytes
    guard optimal > 4096, optimal <= 32 << 20 else { return 4096 }
    // Where it is none, the largest that divides it.
    return max(4096, optimal & -optimal)
  }
}

/// What a server exports; can change while it runs.
public final class ExportList {
  /// All exports, in the order in which they are listed.
  public private(set) var exports: [Export] = []
  private var byName: [String: Export] = [:]
  /// What clients get who name none. Where this is nil, it is the only export, if there is one.
  public var defaultName: String?

  /// Nothing is exported yet.
  public init() {}

  /// Adds an export. Returns false if there is one of that name, or the name is too long.
  @discardableResult
  public func add(_ export: Export) -> Bool {
    guard export.name.utf8.count <= Nbd.stringBytesMax, self[export.name] == nil else {
      return false
    }
    exports.append(export)
    byName[export.name] = export
    return true
  }

  /// Takes an export off the list. Connections that use it go on.
  public func remove(_ name: String) {
    guard let export = byName.removeValue(forKey: name) else { return }
    exports.removeAll { $0 === export }
  }

  /// The same of many, in one go.
  public func remove(_ names: Set<String>) {
    guard !names.isEmpty else { return }
    for name in names { byName[name] = nil }
    exports.removeAll { names.contains($0.name) }
  }

  /// The export of a name.
  public subscript(name: String) -> Export? { byName[name] }

  /// The export that a client asks for.
  func find(_ name: [UInt8]) -> Export? {
    if name.isEmpty {
      if let defaultName { return self[defaultName] }
      return exports.count == 1 ? exports[0] : nil
    }
    // Names that are equal as texts can differ in their bytes.
    guard let text = String(validating: name, as: UTF8.self), let export = byName[text],
      export.name.utf8.elementsEqual(name)
    else { return nil }
    return export
  }
}
