import Glibc
import Testing
import ThinFormat

@testable import ThinTools

/// Records the events of the reader.
private final class Recorder: PoolXmlHandler {
  var events: [String] = []
  /// Calls `mapping` damaged when its data block is this.
  var refused: DataBlock?

  func beginSuperblock(_ superblock: PoolXmlSuperblock) { events.append("\(superblock)") }
  func endSuperblock() { events.append("end superblock") }
  func beginDef(name: String) { events.append("def \(name)") }
  func endDef() { events.append("end def") }
  func beginDevice(_ device: PoolXmlDevice) { events.append("\(device)") }
  func endDevice() { events.append("end device") }
  func mapping(_ run: PoolXmlMapping) throws(ToolError) {
    if run.dataBegin == refused { throw ToolError(.invalidDump, "refused") }
    events.append("\(run.thinBegin) \(run.dataBegin) \(run.length) \(run.time)")
  }
  func ref(name: String) { events.append("ref \(name)") }
}

private struct Outcome: Equatable {
  var events: [String]
  var error: ToolError?
}

private func read(
  _ bytes: [UInt8], fast: Bool = true, readBytes: Int = 1 << 18, refused: DataBlock? = nil
) -> Outcome {
  let fd = textFile(bytes)
  defer { close(fd) }
  let recorder = Recorder()
  recorder.refused = refused
  let reader = PoolXmlReader(
    descriptor: fd, path: "x", handler: recorder, progress: nil, usesFastPath: fast,
    readBytes: readBytes)
  do throws(ToolError) {
    try reader.read()
    return Outcome(events: recorder.events, error: nil)
  } catch {
    return Outcome(events: recorder.events, error: error)
  }
}

private func read(_ text: String) -> Outcome { read(Array(text.utf8)) }

private let header =
  "<superblock uuid=\"\" time=\"1\" transaction=\"2\" data_block_size=\"128\" "
  + "nr_data_blocks=\"10\">"
private let deviceTag =
  "<device dev_id=\"1\" mapped_blocks=\"2\" transaction=\"3\" creation_time=\"4\" "
  + "snap_time=\"5\">"
private let single = "<single_mapping origin_block=\"1\" data_block=\"2\" time=\"3\"/>"
private let range = "<range_mapping origin_begin=\"1\" data_begin=\"2\" length=\"30\" time=\"4\"/>"

/// A document with `inside` in its only device.
private func document(_ inside: String) -> String {
  header + "\n  " + deviceTag + "\n" + inside + "  </device>\n</superblock>"
}

/// Documents in which something is next to, or nearly, a canonical mapping element.
private let oddDocuments: [String] = [
  "    \(single)\n    \(range)\n",
  "\(single)\(range)\n\n\n   \(single)",
  "    \(single)\r\n    \(single)\r\n",
  "    \(single)\n    <!-- > \(single) -->\n    \(single)\n",
  "    <!--\n\(single)\n    \(single)-->\(single)",
  "    \(single)\n    <?pi > \(single)?>\n    \(range)\n",
  "    \(single)\n    <![CDATA[>\n    \(single)]]>\n",
  "    \(single)\n    text\n    \(single)\n",
  "    \(single)\n    > \(single)\n",
  "    \(single)\n    &#32;\n    \(single)\n",
  "    \(single)\n    &nothing;\n    \(single)\n",
  "    <single_mapping data_block='2' origin_block='1'  time = \"3\" />\n    \(single)\n",
  "    <single_mapping origin_block=\"1\" data_block=\"2\" time=\"3\"></single_mapping>\n\(single)",
  "    <single_mapping origin_block=\"1\" data_block=\"2\" time=\"3\">\n\(single)</single_mapping>",
  "    <single_mapping origin_block=\"1\" data_block=\"2\" time=\"3\" time=\"3\"/>",
  "    <single_mapping origin_block=\"1\" data_block=\"2\"/>",
  "    <single_mapping origin_block=\"1\" data_block=\"2\" time=\"\"/>",
  "    <single_mapping origin_block=\"1\" data_block=\"-2\" time=\"1\"/>",
  "    <single_mapping origin_block=\"0000000000000000000000001\" data_block=\"2\" time=\"1\"/>",
  "    <single_mapping origin_block=\"18446744073709551615\" data_block=\"2\" time=\"1\"/>",
  "    <single_mapping origin_block=\"18446744073709551616\" data_block=\"2\" time=\"1\"/>",
  "    <single_mapping origin_block=\"1234567\" data_block=\"12345678\" time=\"4294967295\"/>",
  "    <single_mapping origin_block=\"123456789012345\" data_block=\"123456789\" time=\"1\"/>",
  "    <single_mapping origin_block=\"1234567890123456\" data_block=\"2\" time=\"4294967296\"/>",
  "    <single_mapping origin_block=\"1\" data_block=\"2\" time=\"3\" why=\"4\"/>",
  "    <single_mapping origin_block=\"&#49;\" data_block=\"2\" time=\"3\"/>\n    \(single)\n",
  "    <single_mapping origin_block=\"1>\" data_block=\"2\" time=\"3\"/>\n    \(single)\n",
  "    <triple_mapping origin_block=\"1\" data_block=\"2\" time=\"3\"/>\n",
  "    <ref name=\"a > b &amp; &lt;c\"/>\n    \(single)\n    <ref name=\"d\"></ref>\(single)",
  "    <ref name=\"\"/>\n    <ref name=\"a b\"/>\n\(single)\n    <ref name=\"\t\u{E9}\"/>\n",
  "    <ref name=\"12\"/>\n    <ref name=\"1<2\"/>\n",
  "    <ref name=\"12\"/>\n    <ref name=\"\(String(repeating: "n", count: 255))\"/>\n",
  "    <ref name=\"12\"/>\n    <ref name=\"\(String(repeating: "n", count: 256))\"/>\n",
  "    <ref name=\"12\"/>\n    <ref name=\"1>2'\"/><ref name='13'/><ref  name=\"12\"/>\n",
  "    <ref/>\n    \(single)\n",
  "    <def name=\"a\"/>\n    \(single)\n",
  "    \(single)\n    </def>\n",
  "    \(single)\n  </device>\n    \(single)\n  <device>",
]

/// Documents that are refused, with part of the message.
private let refusedDocuments: [(String, String)] = [
  ("", "empty"), ("  \n", "line 2: the file is empty"), ("hello", "not XML"),
  ("<pool/>", "unexpected element <pool>, expected <superblock>"),
  (header, "unexpected end of the text, expected <def>, <device> or </superblock>"),
  (header + deviceTag, "or </device>"), (header + deviceTag + "<ref name=\"", "or </device>"),
  (header + "</superblock><superblock>", "junk"), (header + "</superblock>junk", ""),
  (header + "</superblock>" + header, "junk"), (header + "</device>", "mismatched tag"),
  (header + single, "unexpected element <single_mapping>"),
  (header + "<def name=\"a\"><ref name=\"a\"/>", "unexpected element <ref>"),
  (header + "<def>", "<def> without attribute 'name'"),
  (header + header, "unexpected element <superblock>"),
  ("<superblock>", "without attribute 'uuid'"),
  (header + "<def name=\"\(String(repeating: "n", count: 256))\">", "more than 255 bytes"),
  (header + "<def name=\"\(String(repeating: "n", count: 600_000))\">", "65536 bytes"),
  (header + "<!-- \(String(repeating: "c", count: 600_000)) -->", "65536 bytes"),
]

struct PoolXmlReaderTests {
  @Test("a dump is read in its order")
  func dump() {
    let text = """
      \(header)
        <def name="12">
          \(range)
        </def>
        \(deviceTag)
          <ref name="12"/>
          \(single)
        </device>
      </superblock>
      """
    var superblock = PoolXmlSuperblock()
    superblock.time = 1
    superblock.transactionID = 2
    superblock.dataBlockSectors = 128
    superblock.dataBlockCount = 10
    var device = PoolXmlDevice()
    device.id = 1
    device.mappedBlocks = 2
    device.transactionID = 3
    device.creationTime = 4
    device.snapshottedTime = 5
    #expect(
      read(text)
        == Outcome(
          events: [
            "\(superblock)", "def 12", "1 2 30 4", "end def", "\(device)", "ref 12", "1 2 1 3",
            "end device", "end superblock",
          ], error: nil))
  }

  @Test("the fast path and expat agree, wherever reads are cut", arguments: oddDocuments.indices)
  func differential(_ index: Int) {
    let bytes = Array(document(oddDocuments[index]).utf8)
    let reference = read(bytes, fast: false)
    #expect(read(bytes) == reference)
    for readBytes in 1...bytes.count {
      #expect(read(bytes, readBytes: readBytes) == reference, "reads of \(readBytes)")
      if readBytes < 80 {
        #expect(read(bytes, fast: false, readBytes: readBytes) == reference)
      }
    }
  }

  @Test("a document with any byte changed is read equally by both paths")
  func mutations() {
    let ref = "<ref name=\"r\"/>"
    let bytes = Array(document("    \(single)\n    \(range)\n    \(ref)\n").utf8)
    for at in 0..<bytes.count {
      for byte in Array("0 \n\"<>/=&-!]x\u{0}\u{80}".utf8) + [0xFF] {
        var changed = bytes
        changed[at] = byte
        let reference = read(changed, fast: false)
        #expect(read(changed) == reference, "byte \(at) is \(byte)")
      }
    }
  }

  @Test("line numbers in errors include lines read by the fast path")
  func lines() {
    let text = document(String(repeating: "    \(single)\n", count: 1000) + "    <x/>\n")
    #expect(read(text).error?.message.hasPrefix("x: line 1003: unexpected element <x>") == true)
    var last = String(repeating: "    \(single)\n", count: 1000)
    last += "    <single_mapping origin_block=\"1\" data_block=\"7\" time=\"3\"/>\n"
    for fast in [true, false] {
      let outcome = read(Array(document(last).utf8), fast: fast, refused: 7)
      #expect(outcome.error?.message == "x: line 1003: refused")
    }
  }

  @Test(
    "a declaration, byte order mark, white space, DOCTYPE and comments may come before",
    arguments: [
      "<?xml version=\"1.0\"?>\n", "<?xml version=\"1.0\" encoding=\"utf-8\"?>", "\u{FEFF}",
      "\u{FEFF}\n <?xml version=\"1.0\"?>", " \n\t", "<!DOCTYPE superblock>\n",
      "<!DOCTYPE superblock SYSTEM \"thin.dtd\">", "<!-- pool -->\n<!-- > -->",
      "<!DOCTYPE superblock [<!ELEMENT superblock ANY>]>",
    ])
  func prologue(_ prologue: String) {
    let plain = document("    \(single)\n    \(range)\n")
    #expect(read(prologue + plain) == read(plain))
    #expect(read(prologue + plain).error == nil)
  }

  @Test("attribute defaults of a DTD are seen by every element")
  func attributeDefaults() {
    let dtd = "<!DOCTYPE superblock [<!ATTLIST single_mapping odd CDATA \"1\">]>"
    let outcome = read(dtd + document("    \(single)\n"))
    #expect(outcome.error?.message.contains("unknown attribute 'odd'") == true)
  }

  @Test("entity declarations are refused before they can grow")
  func entities() {
    let laughs =
      "<!DOCTYPE superblock [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">]>"
    #expect(read(laughs + document("&b;")).error?.message.contains("entity") == true)
    let parameter = "<!DOCTYPE superblock [<!ENTITY % a \"ha\">]>"
    #expect(read(parameter + document("")).error?.message.contains("entity") == true)
    let outside = "<!DOCTYPE superblock SYSTEM \"x.dtd\">"
    #expect(read(outside + document("&b;")).error?.message.contains("entity") == true)
  }

  @Test("an incomplete or foreign document is refused", arguments: refusedDocuments.indices)
  func refusals(_ index: Int) {
    let (text, message) = refusedDocuments[index]
    let outcome = read(text)
    #expect(outcome.error?.cause == .invalidDump)
    #expect(outcome.error?.message.contains(message) == true, "\(outcome.error?.message ?? "")")
  }

  @Test("text in UTF-16 is refused", arguments: [[0xFF, 0xFE], [0xFE, 0xFF], []])
  func encodings(_ mark: [UInt8]) {
    let wide = document("").utf8.flatMap { mark == [0xFE, 0xFF] ? [0, $0] : [$0, 0] }
    #expect(read(mark + wide).error?.message.contains("not XML in UTF-8") == true)
  }

  @Test("any amount of white space is skipped in bounded memory")
  func whiteSpace() {
    let space = String(repeating: " \n", count: 400_000)
    #expect(read(space + document(space + single + space) + space).error == nil)
    let declaration = "<?xml version=\"1.0\"?>"
    #expect(read(declaration + space + document(single) + space).error == nil)
  }
}
