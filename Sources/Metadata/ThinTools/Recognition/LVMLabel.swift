/// The label at the beginning of a physical volume of LVM.
public struct LVMLabel: Equatable, Sendable, CustomStringConvertible {
  /// The volume group; empty if its metadata is missing or unreadable.
  public let volumeGroup: String
  /// Names of its volumes that hold thin-pool metadata.
  public let metadataVolumes: [String]

  /// A description for users.
  public var description: String {
    if volumeGroup.isEmpty { return "a physical volume of LVM" }
    let volumes = metadataVolumes.map { "\(volumeGroup)/\($0)" }.joined(separator: ", ")
    return "a physical volume of LVM, of the volume group \(volumeGroup)"
      + (volumes.isEmpty ? "" : "; thin-pool metadata is in \(volumes)")
  }

  /// Parses the label in the first sectors of a volume; nil if there is none.
  init?(_ bytes: [UInt8]) {
    let label = (0..<4).map { $0 * 512 }.first {
      bytes.dropFirst($0).starts(with: "LABELONE".utf8)
        && bytes.dropFirst($0 + 24).starts(with: "LVM2 001".utf8)
    }
    guard let label else {
      guard bytes.dropFirst(512).starts(with: "LABELONE".utf8) else { return nil }
      (volumeGroup, metadataVolumes) = ("", [])
      return
    }
    let text = Self.metadata(bytes, label: label) ?? ""
    let lines = text.split(separator: "\n").map { $0.drop { $0 == " " || $0 == "\t" } }
    let name = lines.first.flatMap { $0.hasSuffix(" {") ? String($0.dropLast(2)) : nil } ?? ""
    volumeGroup = Self.isName(name) ? name : ""
    metadataVolumes =
      volumeGroup.isEmpty
      ? []
      : lines.compactMap { line in
        guard line.hasPrefix("metadata = \""), line.hasSuffix("_tmeta\"") else { return nil }
        let name = String(line.dropFirst(12).dropLast())
        return Self.isName(name) ? name : nil
      }
  }

  private static func isName(_ text: String) -> Bool {
    !text.isEmpty && text.count <= 127
      && text.utf8.allSatisfy { byte in
        (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte)
          || (0x61...0x7a).contains(byte) || "+_.-".utf8.contains(byte)
      }
  }

  /// The text of the first metadata area that is not empty.
  private static func metadata(_ bytes: [UInt8], label: Int) -> String? {
    // An offset beyond the available bytes yields nil.
    func number(_ offset: Int, _ count: Int) -> Int? {
      guard offset >= 0, offset <= bytes.count - count else { return nil }
      let value = (0..<count).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64(bytes[offset + $1]) }
      return Int(min(value, UInt64(bytes.count)))
    }
    guard let header = number(label + 20, 4) else { return nil }
    // After the identifier and the size follow the data areas, a zero, the metadata areas, and a
    // zero.
    var at = label + header + 40
    while let offset = number(at, 8), offset != 0 { at += 16 }
    at += 16
    while let area = number(at, 8), area != 0 {
      at += 16
      guard bytes.dropFirst(area + 4).starts(with: " LVM2 x[5A%r0N*>".utf8),
        let offset = number(area + 40, 8), let size = number(area + 48, 8), offset != 0
      else { continue }
      let start = area + offset
      guard start < bytes.count else { continue }
      let text = bytes[start..<min(bytes.count, start + min(size, 1 << 20))]
      return String(decoding: text.prefix { $0 != 0 }, as: UTF8.self)
    }
    return nil
  }
}
