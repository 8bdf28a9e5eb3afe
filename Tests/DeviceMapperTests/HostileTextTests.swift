import DeviceMapper
import Simulation
import Testing

/// Feeds arbitrary text to parsers, which must accept it or throw their own errors. Accepted text
/// must be printed as it was parsed.
@Suite struct HostileTextTests {
  private static let seed: UInt64 = 20_261_121

  private static let types = [
    "linear", "striped", "zero", "error", "delay", "flakey", "thin-pool", "thin", "snapshot",
    "snapshot-merge", "snapshot-origin", "crypt", "nosuch", "",
  ]

  private static let words = [
    "98:0", "P", "PO", "N", "r", "w", "Fail", "Error", "1/2", "1/", "rw", "ro", "out_of_data_space",
    "discard_passdown", "queue_if_no_space", "needs_check", "allow_discards", "sector_size:4096",
    "sector_size:", "integrity:1:none",
  ]

  /// Valid lines; mutated lines keep enough of them to get deep into the parsers.
  private static let sound = [
    "linear 98:16 8", "striped 2 8 98:16 0 98:0 16", "delay 98:16 0 5 98:16 8 6 98:16 16 7",
    "flakey 98:16 0 1 2 6 drop_writes corrupt_bio_byte 32 r 255 4294967295",
    "thin-pool 254:0 98:16 128 32768 2 skip_block_zeroing read_only", "thin 254:1 7 254:3",
    "snapshot 254:0 254:1 PO 8 1 discard_zeroes_cow", "snapshot-merge 254:0 254:1 P 16",
    "snapshot-origin 254:0",
    "crypt aes-xts-plain64 :32:logon:k 8 98:16 0 2 sector_size:4096 integrity:28:aead",
    "thin-pool 1 113/1024 7/8 30 ro no_discard_passdown error_if_no_space needs_check 256 ",
    "thin 128 511", "snapshot 16/64 16", "striped 2 98:0 98:16 1 AD", "delay 0 1 2",
  ]

  private static func text(_ number: UInt64) -> HostileText {
    HostileText(sound, words: words, types: types, seed: seed + number)
  }

  @Test("any status is parsed and printed unchanged, or refused")
  func statuses() {
    var words = Self.text(1)
    var understood = 0
    for _ in 0..<15_000 {
      let made = words.line()
      let line = TableLine(
        start: 0, length: made.length, type: made.type, parameters: made.parameters)
      guard let again = understoodStatus(line) else { continue }
      #expect(again == line.parameters, "\(line)")
      understood += 1
    }
    #expect(understood > 300)
  }

  @Test("any text is parsed as a table or refused with a line, and tables are printed unchanged")
  func tables() throws {
    var words = Self.text(2)
    var taken = 0
    for _ in 0..<5_000 {
      var text = ""
      for _ in 0..<Int.random(in: 0..<4, using: &words.random) {
        text += "\(words.any(words.words)) \(words.any(words.words)) "
        text += "\(words.any(Self.sound))\(words.any(["\n", "\n\n", "\r\n", "#"]))"
      }
      text = words.mutated(text)
      do throws(TableText.FormatError) {
        let table = try TableText.parse(text)
        taken += 1
        for line in table { #expect(try TableText.parse("\(line)") == [line], "\(text)") }
        // The check of a table must not trap, whatever its numbers are.
        try? TableRules.check(table, traits: { _ in [] }) { _ throws(TargetError) in }
      } catch {
        #expect(error.line > 0)
      }
    }
    #expect(taken > 100)
  }

  @Test("any text is parsed as a concise table up to the first fault")
  func concise() {
    var words = Self.text(3)
    var devices = 0
    for _ in 0..<5_000 {
      var text = "a,u\\,,7,ro,0 8 zero,8 8 linear a 0;b,,,,0 8 error;"
      for _ in 0..<Int.random(in: 0..<6, using: &words.random) { text = words.mutated(text) }
      var faults = 0
      ConciseTable.parse(text) { result in
        #expect(faults == 0)
        switch result {
        case .success(let device):
          devices += 1
          // The printed form of a device with a table is parsed as the same device.
          guard !device.table.isEmpty else { return }
          var again: [ConciseTable.Device] = []
          ConciseTable.parse(ConciseTable.text([device])) { result in
            if case .success(let device) = result { again.append(device) }
          }
          #expect(again == [device], "\(text)")
        case .failure(let error):
          faults += 1
          #expect(!error.messages.isEmpty)
        }
      }
    }
    #expect(devices > 4_000)
  }

  @Test("any message is parsed or refused, and parsed ones are printed unchanged")
  func messages() throws {
    var words = Self.text(4)
    let keywords = [
      "create_thin", "create_snap", "delete", "set_transaction_id", "reserve_metadata_snap",
      "release_metadata_snap", "key set", "key wipe", "@cancel_deferred_remove", "nosuch",
    ]
    var taken = 0
    for _ in 0..<8_000 {
      var text = words.any(keywords)
      for _ in 0..<Int.random(in: 0..<4, using: &words.random) {
        text += words.any([" ", "  ", "\t", "\\ ", "\\"]) + words.any(words.words)
      }
      if Bool.random(using: &words.random) { text = words.mutated(text) }
      do throws(MessageError) {
        let message = try ThinPoolMessage(text)
        taken += 1
        #expect(try ThinPoolMessage(message.text) == message, "\(text)")
      } catch {
        #expect(error.code == 22, "\(text)")
      }
      _ = try? CryptMessage(text)
      _ = try? CoreMessage(text)
    }
    #expect(taken > 200)
  }

  @Test("any name is mangled into bytes that udev allows, and restored")
  func names() {
    var words = Self.text(5)
    for _ in 0..<8_000 {
      let name = words.mutated(words.mutated(words.any(words.words) + "\\x4" + "a b"))
      do throws(NameMangling.MixedName) {
        let stored = try NameMangling.hex.mangled(name)
        #expect(stored.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f })
        #expect(NameMangling.hex.unmangled(stored) == name)
        let other = try NameMangling.auto.mangled(name)
        #expect(try NameMangling.auto.mangled(other) == other, "\(name)")
      } catch {
        #expect(error.name == name)
      }
    }
  }

  @Test("any path becomes one word of a table, and is restored")
  func paths() {
    var words = Self.text(6)
    for _ in 0..<8_000 {
      let path = "/" + words.mutated(words.any(words.words) + "\\x4à b").replacing("\0", with: "")
      let word = NameMangling.word(path)
      #expect(KernelText.parameterWords("0 \(word) 1") == ["0", word, "1"])
      #expect(NameMangling.decoded(word) == path)
    }
  }
}
