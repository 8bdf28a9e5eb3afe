import DeviceMapper

/// What a verb is about to do that must not be left half done: written down before it begins, and
/// taken away when everything is as it should be. Whoever finds one whose process has gone finishes
/// for it.
struct Intent: Equatable {
  /// A device that is suspended for a while.
  struct Device: Equatable {
    var number: DeviceNumber
    var name: String
  }

  /// Whose it is.
  var owner: ProcessIdentity
  /// The verb, for messages.
  var action: String
  /// Devices to be suspended that were not before.
  var devices: [Device]
  /// Ids of thin devices that may have been made.
  var created: [UInt64] = []

  private static let heading = "dmthin intent 1"

  /// The file's text.
  var text: String {
    var text = "\(Self.heading)\nowner \(owner)\naction \(action)\n"
    for device in devices { text += "suspends \(device.number) \(escaped(device.name))\n" }
    for id in created { text += "creates \(id)\n" }
    return text + "end\n"
  }

  init(
    owner: ProcessIdentity = .current, action: String, devices: [Device], created: [UInt64] = []
  ) {
    self.owner = owner
    self.action = action
    self.devices = devices
    self.created = created
  }

  /// Understands a file's text; nil where it is anything else, or not all of it.
  init?(_ text: String) {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    guard lines.count >= 5, lines.first == Substring(Self.heading), lines.last == "",
      lines[lines.count - 2] == "end", lines[1].hasPrefix("owner "), lines[2].hasPrefix("action "),
      let owner = ProcessIdentity(text: lines[1].dropFirst(6))
    else { return nil }
    self.init(owner: owner, action: String(lines[2].dropFirst(7)), devices: [])
    for line in lines[3..<(lines.count - 2)] {
      let words = line.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
      switch (words.first, words.count) {
      case ("suspends", 3):
        guard let number = DeviceNumber(String(words[1])), let name = unescaped(words[2]) else {
          return nil
        }
        devices.append(Device(number: number, name: name))
      case ("creates", 2):
        guard let id = UInt64(words[1]) else { return nil }
        created.append(id)
      default: return nil
      }
    }
  }
}

/// `text` on one line: backslashes, and what ends lines, as `\HH`.
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

/// The text that `escaped` made this of; nil where it made it of none.
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
