import BlockIO
import DeviceMapper
import ThinFormat

/// A change that must not be left incomplete. The verb writes it to a file before it begins, and
/// removes the file when it is complete. A later verb that finds the intent of a process that has
/// ended completes or undoes the change.
struct Intent: Equatable {
  /// A device to suspend and resume.
  struct Device: Equatable {
    var number: DeviceNumber
    var name: String
    /// `digest(of:)` of its table at the start. It distinguishes the device from another one that
    /// got its number, even after a rename.
    var digest: UInt64
    /// The table to restore; nil if the table is not exchanged.
    var oldTable: [TableLine]?

    /// A device in its present state. With `swaps` it gets a new table.
    init(_ info: DeviceInfo, _ table: [TableLine], swaps: Bool = false) {
      number = info.number
      name = info.name
      digest = Intent.digest(of: table)
      oldTable = swaps ? table : nil
    }

    fileprivate init(number: DeviceNumber, name: String, digest: UInt64) {
      (self.number, self.name, self.digest) = (number, name, digest)
    }

    /// Whether the device with this number is still the same one.
    func isStill(_ found: DeviceTable) -> Bool {
      found.info.name == name || Intent.digest(of: found.lines) == digest
    }
  }

  /// The process that makes the change.
  var owner: ProcessIdentity
  /// The pool's name, for messages.
  var pool: String
  /// The verb, for messages.
  var action: String
  /// Devices to suspend that were not suspended before.
  var devices: [Device]
  /// Ids of thin devices that may have been made.
  var created: [ThinID] = []

  private static let heading = "dmthin intent 1"

  init(
    owner: ProcessIdentity = .current, pool: String, action: String, devices: [Device],
    created: [ThinID] = []
  ) {
    self.owner = owner
    self.pool = pool
    self.action = action
    self.devices = devices
    self.created = created
  }

  /// The file's text.
  var text: String {
    var text = "\(Self.heading)\nowner \(owner)\npool \(escaped(pool))\n"
    text += "action \(escaped(action))\n"
    for device in devices {
      let verb = device.oldTable == nil ? "suspends" : "swaps"
      text += "\(verb) \(device.number) \(device.digest) \(escaped(device.name))\n"
      for line in device.oldTable ?? [] { text += "table \(escaped("\(line)"))\n" }
    }
    for id in created { text += "creates \(id)\n" }
    return text + "end\n"
  }

  /// Parses a file's text; nil if it is incomplete or of another format.
  init?(_ text: String) {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    guard lines.count >= 6, lines.first == Substring(Self.heading), lines.last == "",
      lines[lines.count - 2] == "end", lines[1].hasPrefix("owner "), lines[2].hasPrefix("pool "),
      lines[3].hasPrefix("action "), let owner = ProcessIdentity(text: lines[1].dropFirst(6)),
      let pool = unescaped(lines[2].dropFirst(5)), let action = unescaped(lines[3].dropFirst(7))
    else { return nil }
    self.init(owner: owner, pool: pool, action: action, devices: [])
    for line in lines[4..<(lines.count - 2)] {
      guard add(line) else { return nil }
    }
  }

  /// Parses one line between the first and the last. Returns false if it is invalid.
  private mutating func add(_ line: Substring) -> Bool {
    let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
    switch (words.first, words.count) {
    case ("suspends", 4), ("swaps", 4):
      guard let number = DeviceNumber(String(words[1])), let digest = UInt64(words[2]),
        let name = unescaped(words[3])
      else { return false }
      devices.append(Device(number: number, name: name, digest: digest))
      if words[0] == "swaps" { devices[devices.count - 1].oldTable = [] }
    case ("table", _):
      guard let text = unescaped(line.dropFirst(6)), let parsed = TableLine(intentText: text),
        let last = devices.indices.last, devices[last].oldTable != nil
      else { return false }
      devices[last].oldTable?.append(parsed)
    case ("creates", 2):
      guard let id = UInt64(words[1]) else { return false }
      created.append(ThinID(id))
    default: return false
    }
    return true
  }

  /// A digest of a table. Different tables share one only by a rare chance.
  static func digest(of table: [TableLine]) -> UInt64 {
    var digest = Digest()
    for line in table { digest.add(contentsOf: "\(line)\n".utf8) }
    return digest.value
  }
}

extension TableLine {
  /// Parses the line's `description`.
  fileprivate init?(intentText text: String) {
    let words = text.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
    guard words.count == 4, let start = UInt64(words[0]), let length = UInt64(words[1]) else {
      return nil
    }
    self.init(start: start, length: length, type: String(words[2]), parameters: String(words[3]))
  }
}

/// `text` on one line: backslashes and line ends are written as `\HH`.
func escaped(_ text: String) -> String {
  var bytes: [UInt8] = []
  for byte in text.utf8 {
    if byte < 0x20 || byte == 0x7f || byte == UInt8(ascii: "\\") {
      let digits = String(byte, radix: 16)
      bytes += Array("\\\(digits.count == 1 ? "0" : "")\(digits)".utf8)
    } else {
      bytes.append(byte)
    }
  }
  return String(decoding: bytes, as: UTF8.self)
}

/// Reverses `escaped`; nil if the text is not its result.
func unescaped(_ text: Substring) -> String? {
  var bytes: [UInt8] = []
  var rest = Array(text.utf8)[...]
  while let byte = rest.popFirst() {
    guard byte == UInt8(ascii: "\\") else {
      bytes.append(byte)
      continue
    }
    let digits = rest.prefix(2)
    guard digits.count == 2, let value = hex(digits) else { return nil }
    bytes.append(value)
    rest = rest.dropFirst(2)
  }
  return String(decoding: bytes, as: UTF8.self)
}

private func hex(_ digits: ArraySlice<UInt8>) -> UInt8? {
  var value: UInt8 = 0
  for digit in digits {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | (digit - UInt8(ascii: "0"))
    case UInt8(ascii: "a")...UInt8(ascii: "f"):
      value = value << 4 | (digit - UInt8(ascii: "a") + 10)
    default: return nil
    }
  }
  return value
}
