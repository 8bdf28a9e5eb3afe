import DeviceMapper
import Testing

@Suite struct TableTests {
  @Test("a table's text is parsed as by dmsetup")
  func text() throws {
    let table = try TableText.parse("0 8 zero\n\n  # comment\n\t8 -1 linear  a  b \n")
    #expect(table.map { "\($0)" } == ["0 8 zero ", "8 18446744073709551615 linear a  b "])
    let error = #expect(throws: TableText.FormatError.self) {
      try TableText.parse("0 8 zero\n\n0 8\n", source: "FILE")
    }
    #expect(error?.description == "Invalid format on line 3 of table FILE.")
    #expect(try TableText.parse("99999999999999999999 1 x")[0].start == .max)
  }

  /// Parses `text`. Returns the devices and the error messages.
  private func concise(_ text: String) -> ([ConciseTable.Device], [String]) {
    var devices: [ConciseTable.Device] = []
    var messages: [String] = []
    ConciseTable.parse(text) { result in
      switch result {
      case .success(let device): devices.append(device)
      case .failure(let error): messages = error.messages
      }
    }
    return (devices, messages)
  }

  @Test("a concise table is printed and parsed unchanged, with all escapes")
  func conciseRoundTrip() throws {
    let table = try TableText.parse("0 8 zero\n8 8 linear a,b;c\\d 0")
    let devices = [
      ConciseTable.Device(name: "a,b", uuid: "u;\\", minor: 7, isReadOnly: true, table: table),
      ConciseTable.Device(name: "empty", minor: 8, table: []),
      ConciseTable.Device(name: "last", table: table),
    ]
    let text = ConciseTable.text(devices)
    #expect(text.hasPrefix(#"a\,b,u\;\\,7,ro,0 8 zero ,8 8 linear a\,b\;c\\d 0;empty,,8,rw;"#))
    // As dmsetup prints a device without a table, it does not read it again.
    #expect(concise(text).0.map(\.name) == ["a,b"])
    #expect(concise(ConciseTable.text([devices[0], devices[2]])).0 == [devices[0], devices[2]])
  }

  @Test("devices before a fault in a concise table are passed on")
  func conciseFaults() {
    let (devices, messages) = concise("a,,,,0 8 zero;b")
    #expect(devices.map(\.name) == ["a"])
    #expect(messages.first == "Five comma-separated fields are required for each device")
    #expect(concise("a,,,xx,0 8 zero").1.first?.hasPrefix("Invalid flags parameter 'xx'") == true)
    #expect(concise("a\\").1.first?.hasPrefix("Backslash must be followed") == true)
    #expect(concise("").0.isEmpty && concise("").1.isEmpty)
  }

  @Test("names are mangled and unmangled by mode")
  func mangling() throws {
    #expect(try NameMangling.auto.mangled("a b%") == #"a\x20b\x25"#)
    #expect(try NameMangling.auto.mangled(#"a\x20b"#) == #"a\x20b"#)
    #expect(try NameMangling.hex.mangled(#"a\x20b"#) == #"a\x5cx20b"#)
    #expect(try NameMangling.none.mangled("a b") == "a b")
    let error = #expect(throws: NameMangling.MixedName.self) {
      try NameMangling.auto.mangled(#"a\x20 b"#)
    }
    #expect(error?.name == #"a\x20 b"#)
    for name in ["é \\ x", "", "\\x2", "\\xzz", "#+-.:=@_"] {
      #expect(NameMangling.hex.unmangled(try NameMangling.hex.mangled(name)) == name)
    }
  }

  private func fault(
    _ text: String, isReadOnly: Bool = false, live: String? = nil, refuse: TargetError? = nil
  ) throws -> String? {
    let table = try TableText.parse(text)
    do throws(TargetError) {
      let traits: [String: TargetTraits] = [
        "zero": [], "error": .wildcard, "thin-pool": [.singleton, .alwaysWritable, .immutable],
      ]
      try TableRules.check(table, isReadOnly: isReadOnly, live: live, traits: { traits[$0] }) {
        _ throws(TargetError) in
        if let refuse { throw refuse }
      }
      return nil
    } catch {
      return error.message
    }
  }

  @Test("tables are checked by the rules of all targets, in the kernel's order")
  func rules() throws {
    #expect(try fault("0 8 zero\n8 8 error") == nil)
    #expect(try fault("") == "populate_table: no targets specified")
    #expect(try fault("0 0 nosuch") == "zero-length target")
    #expect(try fault("-8 16 nosuch") == "too large device")
    #expect(try fault("0 18014398509481983 zero") == nil)
    #expect(try fault("0 18014398509481984 zero") == "too large device")
    #expect(try fault("1 8 nosuch") == "nosuch: unknown target type")
    #expect(
      try fault("0 8 thin-pool\n8 8 zero") == "target type thin-pool must appear alone in table")
    #expect(
      try fault("0 8 zero\n8 8 thin-pool")
        == "thin-pool: singleton target type must appear alone in table")
    #expect(
      try fault("0 8 thin-pool", isReadOnly: true)
        == "thin-pool: target type may not be included in a read-only table")
    #expect(try fault("1 8 zero", refuse: TargetError("own words")) == "zero: Gap in table")
    #expect(try fault("0 8 zero", refuse: TargetError("own words")) == "own words")
    #expect(
      try fault("0 8 zero", live: "thin-pool") == "can't replace immutable target type thin-pool")
    #expect(try fault("0 8 zero\n8 8 error", live: "thin-pool") == nil)
    #expect(try fault("0 8 thin-pool", live: "thin-pool") == nil)
  }

  @Test("a pool's messages are parsed as by the pool, and printed unchanged")
  func messages() throws {
    for text in [
      "create_thin 0", "create_snap 16777215 3", "delete 1", "reserve_metadata_snap",
      "set_transaction_id 0 18446744073709551615", "release_metadata_snap",
    ] {
      #expect(try ThinPoolMessage(text).text == text)
    }
    #expect(try ThinPoolMessage(" CREATE_THIN  +010") == .createThin(10))
    #expect(try ThinPoolMessage("create\\_thin 1") == .createThin(1))
    for text in [
      "", " ", "create_thin", "create_thin 1 2", "create_thin 16777216", "create_thin -1",
      "create_thin 0x1", "create\\ thin 1", "set_transaction_id 1", "delete x", "nosuch",
      "set_transaction_id 0 18446744073709551616", "reserve_metadata_snap 1",
    ] {
      let error = #expect(throws: MessageError.self, "\(text)") { try ThinPoolMessage(text) }
      #expect(error?.code == 22)
    }
    #expect(try CoreMessage("create_thin 1") == nil)
    #expect(try CoreMessage("@cancel_deferred_remove") == .cancelDeferredRemove)
    #expect(throws: MessageError.self) { try CoreMessage("@nosuch") }
    #expect(try CryptMessage("key set 00ff") == .setKey("00ff"))
    #expect(throws: MessageError.self) { try CryptMessage("key") }
  }
}
