import DeviceMapper
import Simulation
import Testing

@testable import ServerControl

@Suite("Lines of the control protocol")
struct ControlMessageTests {
  @Test("Any field is read back from its line, tabs and newlines included")
  func roundTrip() throws {
    let info = DeviceInfo(
      name: "a\tb\\n\nc=", uuid: "", number: DeviceNumber(major: 254, minor: .max), openCount: -1,
      eventNumber: .max, isSuspended: true, hasInactiveTable: true, isDeferredRemove: true)
    let lines = [
      TableLine(start: 0, length: .max, type: "thin", parameters: "/dev/mapper/a\\ b 1 "),
      TableLine(start: .max, length: 1, type: "\\", parameters: ""),
    ]
    var message = ControlMessage("status")
    message.put(DeviceReference.name("n:\t"))
    message.put("minor", UInt32?.none)
    message.put(info)
    message.put(lines)
    #expect(message.line.count { $0 == ControlMessage.lineEnd } == 1)
    let read = try ControlMessage(line: message.line.dropLast())
    #expect(read == message && read.word == "status")
    #expect(try read.reference() == .name("n:\t"))
    #expect(try read.numberIfThere("minor", UInt32.self) == nil)
    #expect(try read.info() == info)
    #expect(try read.lines() == lines)
    var other = ControlMessage("x")
    other.put(DeviceReference.number(DeviceNumber(major: 0, minor: 7)))
    #expect(try other.reference() == .number(DeviceNumber(major: 0, minor: 7)))
  }

  /// The lines of version 2, as in the documentation. They never change: a change would be a new
  /// version.
  @Test("The lines of version 2 have not changed")
  func goldenVectors() throws {
    func bytes(_ text: String) -> [UInt8] { Array("\(text)\n".utf8) }
    #expect(ControlProtocol.greeting.line == bytes("hello\tversion=2"))
    #expect(ControlProtocol.versions == [2])
    var create = ControlMessage("create")
    create.put("id", 7)
    create.put("name", "vms")
    create.put("table", if: true)
    create.put([
      TableLine(start: 0, length: 2048, type: "linear", parameters: "/dev/loop0 0"),
      TableLine(start: 2048, length: 8, type: "error", parameters: ""),
    ])
    #expect(
      create.line
        == bytes(
          "create\tid=7\tname=vms\ttable=1\tline=0 2048 linear /dev/loop0 0\tline=2048 8 error "))
    var info = DeviceInfo(
      name: "a\tb", uuid: "u\\", number: DeviceNumber(major: 254, minor: 3), openCount: 1,
      eventNumber: 2, isSuspended: true, hasInactiveTable: true, isDeferredRemove: false)
    info.targetCount = 1
    info.hasLiveTable = true
    var status = ControlMessage("ok")
    status.put(info)
    #expect(
      status.line
        == bytes(
          "ok\tname=a\\tb\tuuid=u\\\\\tnumber=254:3\topen_count=1\tevent_number=2\ttarget_count=1"
            + "\tsuspended=1\tlive_table=1\tinactive_table=1"))
    let error = DeviceMapperError(
      .reload, device: "x (254:1)", code: 16, messages: ["one", "two\nlines"])
    #expect(
      ControlMessage(error).line
        == bytes(
          "error\toperation=reload\tdevice=x (254:1)\tcode=16\tmessage=one\tmessage=two\\nlines"))
    var event = ControlEvent(.event, name: "vms", number: DeviceNumber(major: 254, minor: 0))
    event.eventNumber = 4
    event.status = [TableLine(start: 0, length: 8, type: "thin-pool", parameters: "1 2/3 4/5 - rw")]
    #expect(
      event.message.line
        == bytes(
          "event\twhat=event\tname=vms\tnumber=254:0\tevent_number=4\tline=0 8 thin-pool 1 2/3 4/5 - rw"
        ))
    #expect(try ControlEvent(event.message) == event)
    #expect(ControlEvent(.lost).message.line == bytes("event\twhat=lost"))
    #expect(
      ControlVerb.allCases.map(\.rawValue) == [
        "create", "reload", "clear", "suspend", "resume", "remove", "rename", "message",
        "remove_all", "set_uuid", "info", "status", "table", "list", "targets", "version", "wait",
        "deps", "path", "listeners", "subscribe",
      ])
  }

  @Test("An error comes out as it was, with its number and messages")
  func errors() throws {
    let error = DeviceMapperError(
      .reload, device: "x (254:1)", code: 16, messages: ["one", "two\nlines"])
    let message = try ControlMessage(line: ControlMessage(error).line.dropLast())
    #expect(message.word == "error")
    #expect(try message.error(.info) == error)
    // One of a newer server.
    let newer = try ControlMessage(line: Array("error\toperation=shrink\tcode=5\thint=x".utf8))
    #expect(try newer.error(.info) == DeviceMapperError(.info, device: "", code: 5))
  }

  @Test("A line that says too little, or what no number is, is refused")
  func refusals() throws {
    func refused(_ text: String, _ body: (ControlMessage) throws -> Void) throws {
      let message = try ControlMessage(line: Array("x\t\(text)".utf8))
      #expect(throws: ControlMessage.Malformed.self, "\(text)") { try body(message) }
    }
    try refused("b=1") { _ = try $0.text("a") }
    try refused("a=1\ta=1") { _ = try $0.text("a") }
    try refused("a=18446744073709551616") { _ = try $0.number("a", UInt64.self) }
    try refused("a=-1") { _ = try $0.number("a", UInt8.self) }
    try refused("a=2") { _ = try $0.flag("a") }
    try refused("device=name") { _ = try $0.number("device", UInt8.self) }
    try refused("device=nom:x") { _ = try $0.reference() }
    try refused("device=number:1") { _ = try $0.reference() }
    try refused("device=number:1:4294967296") { _ = try $0.reference() }
    try refused("line=0 1 thin") { _ = try $0.lines() }
    try refused("line=0 x thin ") { _ = try $0.lines() }
    try refused("name=a\tnumber=1:2\topen_count=0") { _ = try $0.info() }
    for line in ["", "\ta=1", "A", "a b", "x\ta", "x\t=1", "x\tA=1", "a\\", "a\\x", "x\ta=\\0"] {
      #expect(throws: ControlMessage.Malformed.self, "\(line)") {
        try ControlMessage(line: Array(line.utf8))
      }
    }
    #expect(throws: ControlMessage.Malformed.self) {
      try ControlMessage(line: [0x78, 9, 0x61, 0x3d, 0xff])
    }
    let long = String(repeating: "a", count: 33)
    #expect(throws: ControlMessage.Malformed.self) { try ControlMessage(line: Array(long.utf8)) }
  }

  @Test("Mutated lines are refused or read, and what is read is written so that it is read again")
  func mutations() {
    let sound = [
      "ok\tname=a\tuuid=u\tnumber=254:3\topen_count=1\tevent_number=2\ttarget_count=1\tsuspended=1",
      "error\toperation=reload\tdevice=x\tcode=16\tmessage=one\tmessage=two\\nlines",
      "event\twhat=event\tname=vms\tnumber=254:0\tevent_number=4\tline=0 8 thin-pool 1 2/3 - rw",
      "create\tid=7\tname=vms\ttable=1\tline=0 2048 linear /dev/loop0 0\tdevice=uuid:x",
    ]
    var text = HostileText(sound, seed: 11)
    var read = 0
    for _ in 0..<20_000 {
      var line = Array(text.any(sound).utf8)
      for _ in 0..<Int.random(in: 0..<5, using: &text.random) { line = text.mutated(line) }
      guard let message = try? ControlMessage(line: line) else { continue }
      read += 1
      #expect((try? ControlMessage(line: message.line.dropLast())) == message)
      _ = try? message.info()
      _ = try? message.lines()
      _ = try? message.error(.info)
      _ = try? message.reference()
      _ = try? ControlEvent(message)
    }
    #expect(read > 5_000)
  }
}
