import DeviceMapper
import Testing

/// What the kernel prints, by type; the rig's test has what it prints just now. Outside of the suite,
/// whose macros need it before the suite has a type.
private enum KernelPrints {
  static let tables = [
    "0 16 linear 98:16 8", "8 16 linear 98:16 18446744073709551615", "0 16 zero ", "0 16 error ",
    "0 32 striped 2 8 98:16 0 98:0 16", "0 4294967280 striped 1 4294967280 98:16 0",
    "0 16 delay 98:16 0 5", "0 16 delay 98:16 0 5 98:16 8 6",
    "0 16 delay 98:16 0 5 98:16 8 6 98:16 16 4294967295",
    "0 16 flakey 98:16 0 1 2 0 ", "0 16 flakey 98:16 0 0 4294967295 1 error_writes ",
    "0 16 flakey 98:16 0 1 2 6 drop_writes corrupt_bio_byte 32 r 255 4294967295 ",
    "0 16 flakey 98:16 0 1 2 5 corrupt_bio_byte 4294967295 w 0 0 ",
    "0 65536 thin-pool 254:0 98:16 128 32768 0 ",
    "0 65536 thin-pool 254:0 98:16 2097152 18446744073709551615 1 read_only ",
    "0 65536 thin-pool 254:0 98:16 128 0 4 skip_block_zeroing ignore_discard no_discard_passdown "
      + "error_if_no_space ",
    "0 8192 thin 254:1 0", "0 8192 thin 254:1 16777215", "0 8192 thin 254:1 0 254:3",
    "0 8192 thin Fail", "0 8192 thin Error", "0 8192 thin -",
    "0 8192 snapshot 254:0 254:1 P 8", "0 8192 snapshot 254:0 254:1 N 16",
    "0 8192 snapshot 254:0 254:1 PO 8 1 discard_zeroes_cow",
    "0 8192 snapshot 254:0 254:1 P 8 2 discard_zeroes_cow discard_passdown_origin",
    "0 8192 snapshot-merge 254:0 254:1 P 16", "0 8192 snapshot-origin 254:0",
    "0 8192 crypt aes-xts-plain64 0011aabb 0 98:16 4096",
    "0 8192 crypt aes-cbc-essiv:sha256 - 18446744073709551615 98:16 0 1 allow_discards",
    "0 8192 crypt capi:xts(aes)-plain64 :32:logon:cryptsetup:name 18446744073709551608 98:16 0 8 "
      + "allow_discards same_cpu_crypt submit_from_crypt_cpus no_read_workqueue "
      + "no_write_workqueue integrity:28:aead sector_size:4096 iv_large_sectors",
    "0 8 raid1 something else", "0 8 raid1 ",
  ]

  static let statuses = [
    "thin-pool 0 113/1024 0/8 - rw no_discard_passdown queue_if_no_space - 256 ",
    "thin-pool 18446744073709551615 114/1024 1/8 30 ro discard_passdown error_if_no_space "
      + "needs_check 1024 ",
    "thin-pool 1 1/1 8/8 - out_of_data_space ignore_discard queue_if_no_space - 256 ",
    "thin-pool 1 1/1 8/8 - rw ignore_discard queue_if_no_space - ", "thin-pool Fail",
    "thin-pool Error", "thin 0 -", "thin 128 511", "thin -", "thin Fail", "thin Error",
    "snapshot 16/64 16", "snapshot Invalid", "snapshot Overflow", "snapshot-merge 16/64 16",
    "snapshot-merge Merge failed", "snapshot Unknown", "striped 2 98:0 98:16 1 AD", "delay 0 1 2",
    "linear ", "zero ", "error ", "flakey ", "snapshot-origin ", "crypt ",
  ]
}

@Suite struct TargetTests {
  @Test("a line of a table comes back as the kernel printed it", arguments: KernelPrints.tables)
  func tables(_ text: String) throws {
    let line = try #require(try TableText.parse(text).first)
    let target = try Target(printed: line)
    #expect("\(target.line(start: line.start, length: line.length))" == text)
    if case .other = target { #expect(line.type == "raid1") }
  }

  /// The list above cannot lose a type unnoticed.
  @Test("every type has lines that come back")
  func types() {
    let types = Set(KernelPrints.tables.compactMap { $0.split(separator: " ").dropFirst(2).first })
    let known = Set(
      "thin-pool thin linear striped zero error snapshot snapshot-origin snapshot-merge flakey delay crypt"
        .split(separator: " "))
    #expect(types == known.union(["raid1"]))
    for type in known { #expect(TargetTraits.of(String(type)) != nil) }
  }

  @Test("keys of crypt are hidden digit by digit, and names of keys are not")
  func keys() throws {
    let words = ["aes-xts-plain64", "0011aabb", "0", "98:16", "4096"]
    #expect(try CryptTarget(words).hiddenParameters == "aes-xts-plain64 00000000 0 98:16 4096")
    let named = [words[0], ":32:logon:cryptsetup:x"] + words[2...]
    #expect(try CryptTarget(named).hiddenParameters == named.joined(separator: " "))
    // A blank in a name cannot be told from the end of the word.
    let line = TableLine(
      start: 0, length: 8, type: "crypt", parameters: "aes :32:logon:key name 0 98:16 0")
    #expect(throws: TargetError.self) { try Target(printed: line) }
  }

  @Test("a status comes back as the kernel printed it", arguments: KernelPrints.statuses)
  func statuses(_ text: String) throws {
    let line = try #require(try TableText.parse("0 8 \(text)").first)
    let status = TargetStatus(line)
    #expect(status.parameters == line.parameters)
    if case .other = status { Issue.record("not understood") }
  }

  @Test(
    "a status that makes no sense is kept as it is",
    arguments: [
      "thin-pool 0 113/1024", "thin-pool 0 1/2 3/4 - rw no_discard_passdown queue_if_no_space - x ",
      "thin-pool 007 1/2 3/4 - rw discard_passdown queue_if_no_space - 1 ", "thin 1", "thin 1 2 3",
      "thin 99999999999999999999 1", "snapshot 1/2", "striped 99999999 a 1 A", "striped 0 1 ",
      "striped 1 a 1 X", "delay 1 2",
    ])
  func senseless(_ text: String) throws {
    let line = try #require(try TableText.parse("0 8 \(text)").first)
    #expect(TargetStatus(line) == .other(line.parameters))
  }

  @Test("a pool's features are taken in any order and case, and printed in the kernel's")
  func features() throws {
    let words = ["a", "b", "+128", "+5", "2", "ERROR_if_no_space", "skip_block_zeroing", "ignored"]
    let pool = try ThinPoolTarget(words)
    #expect(pool.parameters == "a b 128 5 2 skip_block_zeroing error_if_no_space ")
  }

  @Test("a pool's devices differ from each other, and a thin device's origin from its pool")
  func sameDevice() {
    #expect(throws: TargetError("Error setting metadata or data device")) {
      try ThinPoolTarget(["254:1", "254:1", "128", "0"])
    }
    #expect(throws: TargetError("Error setting origin device")) {
      try ThinTarget(["254:1", "1", "254:1"])
    }
  }

  @Test("the first fault is that of the kernel's order, opening of devices included")
  func order() {
    let words = ["m", "d", "127", "x"]
    func refusal(_ words: [String], without missing: String) -> TargetError? {
      do throws(TargetError) {
        _ = try ThinPoolTarget(words) { request throws(DeviceOpenError) in
          if request.text == missing { throw DeviceOpenError(code: 19) }
        }
        return nil
      } catch {
        return error
      }
    }
    #expect(
      refusal(words + ["1", "x"], without: "m")?.message == "Unrecognised pool feature requested")
    #expect(
      refusal(words, without: "m") == TargetError("Error opening metadata block device", code: 19))
    #expect(refusal(words, without: "d") == TargetError("Error getting data device", code: 19))
    #expect(refusal(words, without: "") == TargetError("Invalid block size"))
  }
}
