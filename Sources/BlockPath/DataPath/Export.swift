/// A destination as clients of a server see it, by any protocol.
public final class Export {
  /// Bytes of the longest name: no protocol carries more.
  public static let nameBytesMax = 4096

  /// What clients ask for; at most `nameBytesMax` bytes.
  public let name: String
  /// A line for people, which clients show in lists.
  public let summary: String
  /// Where requests go.
  public let destination: BlockDestination
  /// Whether writes are refused.
  @inlinable public var isReadOnly: Bool { refusesWrites || destination.isReadOnly }
  /// Connections that use it.
  public private(set) var connections = 0
  @usableFromInline let refusesWrites: Bool
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
  public func open() -> Bool {
    if connections == 0, !opened(true) { return false }
    connections += 1
    return true
  }

  /// A connection ends.
  public func close() {
    connections -= 1
    if connections == 0 { _ = opened(false) }
  }

  /// Size in bytes that can be addressed: whole blocks.
  @inlinable public var byteCount: UInt64 {
    destination.byteCount & ~UInt64(destination.logicalBlockBytes - 1)
  }
}

/// What servers export; can change while they run.
public final class ExportList {
  /// All exports, in the order in which they are listed.
  public private(set) var exports: [Export] = []
  private var byName: [String: Export] = [:]
  /// The export of clients that name none. Where this is nil, it is the only export, if there is one.
  public var defaultName: String?

  /// Nothing is exported yet.
  public init() {}

  /// Adds an export. Returns false if there is one of that name, or the name is too long.
  @discardableResult
  public func add(_ export: Export) -> Bool {
    guard export.name.utf8.count <= Export.nameBytesMax, self[export.name] == nil else {
      return false
    }
    exports.append(export)
    byName[export.name] = export
    return true
  }

  /// Removes an export from the list. Connections that use it go on.
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

  /// The export that a client asks for by these bytes, empty for the default.
  public func find(_ name: [UInt8]) -> Export? {
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
