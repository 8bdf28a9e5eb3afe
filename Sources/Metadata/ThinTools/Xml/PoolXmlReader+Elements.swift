import Cexpat
import Glibc
import ThinFormat

/// The section of the document that is being read.
enum PoolXmlSection {
  case prolog, superblock, def, device
  /// Inside an element without content; the flag says whether it is in a device.
  case empty(inDevice: Bool)
  case end

  /// Whether mapping elements may follow.
  var holdsMappings: Bool {
    switch self {
    case .def, .device: true
    default: false
    }
  }

  /// Whether refs may follow.
  var holdsRefs: Bool {
    if case .device = self { true } else { false }
  }

  /// The elements that may follow, for messages.
  var expected: String {
    switch self {
    case .prolog: "<superblock>"
    case .superblock: "<def>, <device> or </superblock>"
    case .def: "<single_mapping>, <range_mapping> or </def>"
    case .device: "<single_mapping>, <range_mapping>, <ref> or </device>"
    case .empty: "the end of the element"
    case .end: "nothing after </superblock>"
    }
  }

  static func != (a: Self, b: Self) -> Bool { a.expected != b.expected }
}

/// The attributes of one element in expat's form: name, value, name, value, nil.
@safe struct PoolXmlAttributes {
  typealias Pairs = UnsafeMutablePointer<UnsafePointer<XML_Char>?>

  /// The longest value, in bytes.
  static let valueMax = 255

  let element: StaticString
  /// The values, by position in the list of names.
  private var values: [UnsafePointer<XML_Char>?]
  private let names: [StaticString]

  /// Parses the attributes, all of which must be in `names`.
  init(of element: StaticString, _ pairs: Pairs, names: [StaticString]) throws(ToolError) {
    self.element = element
    self.names = names
    unsafe values = Array(repeating: nil, count: names.count)
    var at = 0
    while let name = unsafe pairs[at], let value = unsafe pairs[at + 1] {
      at += 2
      guard let index = names.firstIndex(where: { unsafe isName($0, name) }) else {
        throw ToolError(.invalidDump, unsafe "unknown attribute '\(shown(name))' of <\(element)>")
      }
      guard unsafe strnlen(value, Self.valueMax + 1) <= Self.valueMax else {
        throw ToolError(
          .invalidDump,
          "attribute '\(names[index])' of <\(element)> has more than \(Self.valueMax) bytes")
      }
      unsafe values[index] = value
    }
  }

  /// The text of attribute `index`; nil if it is missing.
  func text(ifGiven index: Int) -> String? {
    unsafe values[index].map { unsafe String(cString: $0) }
  }

  /// The text of attribute `index`.
  func text(_ index: Int) throws(ToolError) -> String {
    guard let text = text(ifGiven: index) else { throw missing(index) }
    return text
  }

  /// The number in attribute `index`; nil if it is missing.
  func number<N: FixedWidthInteger>(ifGiven index: Int, _: N.Type) throws(ToolError) -> N? {
    guard let value = unsafe values[index] else { return nil }
    var result: N = 0
    var at = 0
    while unsafe value[at] != 0 {
      let digit = unsafe UInt8(bitPattern: value[at]) &- 48
      let (tens, overflowed) = result.multipliedReportingOverflow(by: 10)
      let (sum, carried) = tens.addingReportingOverflow(N(truncatingIfNeeded: digit))
      guard digit < 10, !overflowed, !carried else { throw unsafe notNumber(index, value, N.max) }
      result = sum
      at += 1
    }
    guard at > 0 else { throw unsafe notNumber(index, value, N.max) }
    return result
  }

  /// The number in attribute `index`.
  func number<N: FixedWidthInteger>(_ index: Int, _ type: N.Type) throws(ToolError) -> N {
    guard let value = try number(ifGiven: index, type) else { throw missing(index) }
    return value
  }

  private func missing(_ index: Int) -> ToolError {
    ToolError(.invalidDump, "<\(element)> without attribute '\(names[index])'")
  }

  private func notNumber<N: FixedWidthInteger>(
    _ index: Int, _ value: UnsafePointer<XML_Char>, _ max: N
  ) -> ToolError {
    ToolError(
      .invalidDump,
      unsafe "attribute '\(names[index])' of <\(element)>: expected a number of 0 to \(max), found "
        + "'\(shown(value))'")
  }
}

private func isName(_ wanted: StaticString, _ name: UnsafePointer<XML_Char>) -> Bool {
  unsafe wanted.utf8Start.withMemoryRebound(to: CChar.self, capacity: 1) {
    unsafe strcmp($0, name) == 0
  }
}

/// At most 64 bytes of foreign text, for a message.
private func shown(_ text: UnsafePointer<XML_Char>) -> String {
  let bytes = unsafe UnsafeBufferPointer(start: text, count: strnlen(text, 64))
  return unsafe String(decoding: bytes.lazy.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

extension PoolXmlReader {
  /// Sets expat's callbacks.
  func connect(_ parser: XML_Parser) {
    unsafe XML_SetUserData(parser, Unmanaged.passUnretained(self).toOpaque())
    unsafe XML_SetElementHandler(
      parser,
      { reader, name, attributes in
        guard let name = unsafe name, let attributes = unsafe attributes else { return }
        unsafe PoolXmlReader.from(reader)?.event { (reader) throws(ToolError) in
          try unsafe reader.beginElement(name, attributes)
        }
      },
      { reader, _ in
        unsafe PoolXmlReader.from(reader)?.event { (reader) throws(ToolError) in
          try reader.endElement()
        }
      })
    unsafe XML_SetCharacterDataHandler(parser) { reader, text, count in
      guard let text = unsafe text else { return }
      let bytes = unsafe UnsafeBufferPointer(start: text, count: Int(count))
      if unsafe bytes.allSatisfy({ PoolXmlReader.isSpace(UInt8(bitPattern: $0)) }) { return }
      unsafe PoolXmlReader.from(reader)?.event { (reader) throws(ToolError) in
        throw ToolError(.invalidDump, "unexpected text, expected \(reader.section.expected)")
      }
    }
    unsafe XML_SetStartCdataSectionHandler(parser) { reader in
      unsafe PoolXmlReader.from(reader)?.event { (reader) throws(ToolError) in
        throw ToolError(.invalidDump, "unexpected CDATA, expected \(reader.section.expected)")
      }
    }
    unsafe XML_SetStartDoctypeDeclHandler(parser) { reader, _, _, _, hasInternalSubset in
      if hasInternalSubset != 0 { unsafe PoolXmlReader.from(reader)?.hasInternalSubset = true }
    }
    unsafe XML_SetEntityDeclHandler(parser) { reader, _, _, _, _, _, _, _, _ in
      unsafe PoolXmlReader.from(reader)?.event { (_) throws(ToolError) in
        throw ToolError(.invalidDump, "entity declarations are refused")
      }
    }
    unsafe XML_SetSkippedEntityHandler(parser) { reader, _, _ in
      unsafe PoolXmlReader.from(reader)?.event { (_) throws(ToolError) in
        throw ToolError(.invalidDump, "reference to an undeclared entity")
      }
    }
  }

  private static func from(_ pointer: UnsafeMutableRawPointer?) -> PoolXmlReader? {
    unsafe pointer.map { unsafe Unmanaged<PoolXmlReader>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Runs a callback's work unless an error occurred before, and stops expat when it fails.
  private func event(_ body: (PoolXmlReader) throws(ToolError) -> Void) {
    guard failure == nil else { return }
    do throws(ToolError) {
      try body(self)
      eventEnd = unsafe Int(XML_GetCurrentByteIndex(parser)) + Int(XML_GetCurrentByteCount(parser))
    } catch {
      failure = located(error)
      unsafe XML_StopParser(parser, XML_Bool(XML_FALSE))
    }
  }

  private func beginElement(
    _ name: UnsafePointer<XML_Char>, _ attributes: PoolXmlAttributes.Pairs
  ) throws(ToolError) {
    switch section {
    case .prolog where unsafe isName("superblock", name):
      section = .superblock
      try unsafe handler.beginSuperblock(superblock(attributes))
    case .superblock where unsafe isName("def", name):
      section = .def
      try unsafe handler.beginDef(
        name: PoolXmlAttributes(of: "def", attributes, names: ["name"]).text(0))
    case .superblock where unsafe isName("device", name):
      section = .device
      try unsafe handler.beginDevice(device(attributes))
    case .def where unsafe isName("single_mapping", name),
      .device where unsafe isName("single_mapping", name):
      emptyElement()
      try unsafe handler.mapping(singleMapping(attributes))
    case .def where unsafe isName("range_mapping", name),
      .device where unsafe isName("range_mapping", name):
      emptyElement()
      try unsafe handler.mapping(rangeMapping(attributes))
    case .device where unsafe isName("ref", name):
      emptyElement()
      try unsafe handler.ref(
        name: PoolXmlAttributes(of: "ref", attributes, names: ["name"]).text(0))
    default:
      throw ToolError(
        .invalidDump, unsafe "unexpected element <\(shown(name))>, expected \(section.expected)")
    }
  }

  private func emptyElement() {
    if case .device = section {
      section = .empty(inDevice: true)
    } else {
      section = .empty(inDevice: false)
    }
  }

  private func endElement() throws(ToolError) {
    switch section {
    case .empty(let inDevice):
      section = inDevice ? .device : .def
    case .def:
      section = .superblock
      try handler.endDef()
    case .device:
      section = .superblock
      try handler.endDevice()
    case .superblock:
      section = .end
      try handler.endSuperblock()
    case .prolog, .end: break
    }
  }

  private func superblock(_ attributes: PoolXmlAttributes.Pairs) throws(ToolError)
    -> PoolXmlSuperblock
  {
    let given = try unsafe PoolXmlAttributes(
      of: "superblock", attributes,
      names: [
        "uuid", "time", "transaction", "flags", "version", "data_block_size", "nr_data_blocks",
        "metadata_snap",
      ])
    var result = PoolXmlSuperblock()
    result.uuid = try given.text(0)
    result.time = try given.number(1, UInt32.self)
    result.transactionID = try given.number(2, UInt64.self)
    result.flags = try given.number(ifGiven: 3, UInt32.self) ?? 0
    result.version = try given.number(ifGiven: 4, UInt32.self) ?? 2
    result.dataBlockSectors = try given.number(5, UInt32.self)
    result.dataBlockCount = try given.number(6, UInt64.self)
    result.metadataSnapshot = try given.number(ifGiven: 7, UInt64.self).map { MetadataBlock($0) }
    return result
  }

  private func device(_ attributes: PoolXmlAttributes.Pairs) throws(ToolError) -> PoolXmlDevice {
    let given = try unsafe PoolXmlAttributes(
      of: "device", attributes,
      names: ["dev_id", "mapped_blocks", "transaction", "creation_time", "snap_time"])
    var result = PoolXmlDevice()
    result.id = ThinID(try given.number(0, UInt64.self))
    result.mappedBlocks = try given.number(1, UInt64.self)
    result.transactionID = try given.number(2, UInt64.self)
    result.creationTime = try given.number(3, UInt32.self)
    result.snapshottedTime = try given.number(4, UInt32.self)
    return result
  }

  private func singleMapping(_ attributes: PoolXmlAttributes.Pairs) throws(ToolError)
    -> PoolXmlMapping
  {
    let given = try unsafe PoolXmlAttributes(
      of: "single_mapping", attributes, names: ["origin_block", "data_block", "time"])
    return PoolXmlMapping(
      thinBegin: VirtualBlock(try given.number(0, UInt64.self)),
      dataBegin: DataBlock(try given.number(1, UInt64.self)),
      length: 1, time: try given.number(2, UInt32.self))
  }

  private func rangeMapping(_ attributes: PoolXmlAttributes.Pairs) throws(ToolError)
    -> PoolXmlMapping
  {
    let given = try unsafe PoolXmlAttributes(
      of: "range_mapping", attributes, names: ["origin_begin", "data_begin", "length", "time"])
    return PoolXmlMapping(
      thinBegin: VirtualBlock(try given.number(0, UInt64.self)),
      dataBegin: DataBlock(try given.number(1, UInt64.self)),
      length: try given.number(2, UInt64.self), time: try given.number(3, UInt32.self))
  }
}
