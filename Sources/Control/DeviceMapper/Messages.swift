/// The refusal of a message, with its error number. The reason appears only in the kernel's log.
public struct MessageError: Error, Hashable, Sendable {
  /// The error number.
  public let code: Int32
  /// The text of the kernel's log.
  public let message: String
  /// Lines for users about what to do.
  public let explanation: [String]

  /// A refusal, by default with EINVAL.
  public init(_ message: String, code: Int32 = 22, explanation: [String] = []) {
    self.message = message
    self.code = code
    self.explanation = explanation
  }
}

/// A message to a thin pool.
public enum ThinPoolMessage: Hashable, Sendable {
  /// Makes an empty thin device.
  case createThin(UInt32)
  /// Makes a snapshot of a thin device.
  case createSnapshot(UInt32, origin: UInt32)
  /// Deletes a thin device.
  case delete(UInt32)
  /// Replaces the transaction id, if it is `current`.
  case setTransactionID(current: UInt64, new: UInt64)
  /// Makes a metadata snapshot.
  case reserveMetadataSnapshot
  /// Releases the metadata snapshot.
  case releaseMetadataSnapshot

  /// Parses a message as a writable pool does. The words are counted first.
  public init(_ text: String) throws(MessageError) {
    let words = KernelText.words(text)
    guard let keyword = words.first else { throw MessageError("Empty message received.") }
    func isKeyword(_ name: String) -> Bool { KernelText.isSame(keyword, name) }
    func count(_ wanted: Int) throws(MessageError) {
      guard words.count == wanted else {
        throw MessageError("Message received with \(words.count) arguments instead of \(wanted).")
      }
    }
    func id(_ index: Int) throws(MessageError) -> UInt32 {
      guard let id = ThinTarget.id(words[index]) else {
        throw MessageError("Message received with invalid device id: \(words[index])")
      }
      return id
    }
    func number(_ index: Int, _ what: String) throws(MessageError) -> UInt64 {
      guard let number = KernelText.strict(words[index]) else {
        throw MessageError("set_transaction_id message: Unrecognised \(what) \(words[index]).")
      }
      return number
    }
    if isKeyword("create_thin") {
      try count(2)
      self = .createThin(try id(1))
    } else if isKeyword("create_snap") {
      try count(3)
      self = .createSnapshot(try id(1), origin: try id(2))
    } else if isKeyword("delete") {
      try count(2)
      self = .delete(try id(1))
    } else if isKeyword("set_transaction_id") {
      try count(3)
      self = .setTransactionID(
        current: try number(1, "id"), new: try number(2, "new id"))
    } else if isKeyword("reserve_metadata_snap") {
      try count(1)
      self = .reserveMetadataSnapshot
    } else if isKeyword("release_metadata_snap") {
      try count(1)
      self = .releaseMetadataSnapshot
    } else {
      throw MessageError("Unrecognised thin pool target message received: \(keyword)")
    }
  }

  /// The message.
  public var text: String {
    switch self {
    case .createThin(let id): "create_thin \(id)"
    case .createSnapshot(let id, let origin): "create_snap \(id) \(origin)"
    case .delete(let id): "delete \(id)"
    case .setTransactionID(let current, let new): "set_transaction_id \(current) \(new)"
    case .reserveMetadataSnapshot: "reserve_metadata_snap"
    case .releaseMetadataSnapshot: "release_metadata_snap"
    }
  }
}

/// A message to a crypt target, which must be suspended.
public enum CryptMessage: Hashable, Sendable {
  /// Erases the key; the target cannot be resumed before it gets a new one.
  case wipeKey
  /// Sets a new key of the same size.
  case setKey(String)

  /// Parses a message.
  public init(_ text: String) throws(MessageError) {
    let words = KernelText.words(text)
    if words.count == 2, KernelText.isSame(words[0], "key"), KernelText.isSame(words[1], "wipe") {
      self = .wipeKey
    } else if words.count == 3, KernelText.isSame(words[0], "key"),
      KernelText.isSame(words[1], "set")
    {
      self = .setKey(words[2])
    } else {
      throw MessageError("unrecognised message received.")
    }
  }

  /// The message.
  public var text: String {
    switch self {
    case .wipeKey: "key wipe"
    case .setKey(let key): "key set \(key)"
    }
  }
}

/// A message to device-mapper itself. It begins with `@` and needs no target.
public enum CoreMessage: Hashable, Sendable {
  /// Cancels the deferred removal of a device.
  case cancelDeferredRemove

  /// Parses a message; nil if it is one for a target.
  public init?(_ text: String) throws(MessageError) {
    let words = KernelText.words(text)
    guard let keyword = words.first else { throw MessageError("Empty message received.") }
    guard keyword.utf8.first == UInt8(ascii: "@") else { return nil }
    guard KernelText.isSame(keyword, "@cancel_deferred_remove") else {
      throw MessageError("Unsupported message sent to DM core: \(keyword)")
    }
    guard words.count == 1 else {
      throw MessageError("Invalid arguments for @cancel_deferred_remove")
    }
    self = .cancelDeferredRemove
  }

  /// The message.
  public var text: String { "@cancel_deferred_remove" }
}
