import DeviceMapper
import ServerControl
import Simulation
import Testing

@Suite("Lines of the control protocol")
struct ControlMessageTests {
  @Test("Whatever is put into a line comes out of it, tabs and newlines included")
  func roundTrip() throws {
    let info = DeviceInfo(
      name: "a\tb\\n\nc", uuid: "", number: DeviceNumber(major: 254, minor: .max), openCount: -1,
      eventNumber: .max, isSuspended: true, hasInactiveTable: true, isDeferredRemove: true)
    let lines = [
      TableLine(start: 0, length: .max, type: "thin", parameters: "/dev/mapper/a\\ b 1 "),
      TableLine(start: .max, length: 1, type: "\\", parameters: ""),
    ]
    var message = ControlMessage(["status"])
    message.put(DeviceReference.name("n:\t"))
    message.put(DeviceReference.number(DeviceNumber(major: 0, minor: 7)))
    message.put(UInt32?.none)
    message.put(info)
    message.put(lines)
    #expect(message.line.count { $0 == ControlMessage.lineEnd } == 1)
    var read = try ControlMessage(line: message.line.dropLast())
    #expect(try read.text() == "status")
    #expect(try read.reference() == .name("n:\t"))
    #expect(try read.reference() == .number(DeviceNumber(major: 0, minor: 7)))
    #expect(try read.optionalNumber() == nil)
    #expect(try read.info() == info)
    #expect(try read.lines() == lines)
    #expect(read.isAtEnd)
  }

  @Test("An error comes out as it was, with its number and messages")
  func errors() throws {
    let error = DeviceMapperError(
      .reload, device: "x (254:1)", code: 16, messages: ["one", "two\nlines"])
    var message = try ControlMessage(line: ControlMessage(error).line.dropLast())
    #expect(try message.text() == "error")
    #expect(try message.error() == error)
  }

  @Test("A line that says too little, or what no number is, is refused")
  func refusals() throws {
    func refused(_ fields: [String], _ body: (inout ControlMessage) throws -> Void) {
      var message = ControlMessage(fields)
      #expect(throws: ControlMessage.Malformed()) { try body(&message) }
    }
    refused([]) { _ = try $0.text() }
    refused(["18446744073709551616"]) { _ = try $0.number(UInt64.self) }
    refused(["-1"]) { _ = try $0.number(UInt8.self) }
    refused(["2"]) { _ = try $0.flag() }
    refused(["name"]) { _ = try $0.reference() }
    refused(["number:1"]) { _ = try $0.reference() }
    refused(["number:1:4294967296"]) { _ = try $0.reference() }
    refused(["0", "1", "thin"]) { _ = try $0.lines() }
    refused(["a", "", "1", "2", "0", "0"]) { _ = try $0.info() }
    for line in ["a\\", "a\\x", "\\0"] {
      #expect(throws: ControlMessage.Malformed()) { try ControlMessage(line: Array(line.utf8)) }
    }
    #expect(throws: ControlMessage.Malformed()) { try ControlMessage(line: [0xff, 9, 0xc0]) }
  }

  @Test("Random bytes are refused or read, and never more than that")
  func randomBytes() {
    var generator = SplitMix64(seed: 11)
    let alphabet = Array("\t\\tn0123456789:name:number:uuid:\u{ff}".utf8) + [0, 0xff, 0xc3]
    for _ in 0..<20_000 {
      let count = Int.random(in: 0..<40, using: &generator)
      let line = (0..<count).map { _ in alphabet.randomElement(using: &generator) ?? 0 }
      guard var message = try? ControlMessage(line: line) else { continue }
      // What is understood is written so that it is understood again.
      #expect((try? ControlMessage(line: message.line.dropLast())) == message)
      while !message.isAtEnd {
        var copies = [message, message, message, message]
        _ = try? copies[0].info()
        _ = try? copies[1].lines()
        _ = try? copies[2].error()
        _ = try? copies[3].reference()
        _ = try? message.text()
      }
    }
  }
}
