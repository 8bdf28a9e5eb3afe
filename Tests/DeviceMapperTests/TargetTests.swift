import DeviceMapper
import Testing

/// What the kernel prints, by type; the rig's test compares with the running kernel. It is outside
/// of the suite because the suite's macros need it before the suite's type exists.
private enum KernelPrints {
  static let statuses = [
    "thin-pool 0 113/1024 0/8 - rw no_discard_passdown queue_if_no_space - 256 ",
    "thin-pool 18446744073709551615 114/1024 1/8 30 ro discard_passdown error_if_no_space "
      + "needs_check 1024 ",
    "thin-pool 1 1/1 8/8 - out_of_data_space ignore_discard queue_if_no_space - 256 ",
    "thin-pool 1 1/1 8/8 - rw ignore_discard queue_if_no_space - ", "thin-pool Fail",
    "thin-pool Error", "thin 0 -", "thin 128 511", "thin -", "thin Fail", "thin Error",
    "snapshot 16/64 16", "snapshot Invalid", "snapshot Overflow", "snapshot-merge 16/64 16",
    "snapshot-merge Merge failed", "snapshot Unknown",
  ]
}

@Suite struct TargetTests {
  @Test("keys of crypt are hidden digit by digit, and names of keys are not")
  func keys() throws {
    let words = ["aes-xts-plain64", "0011aabb", "0", "98:16", "4096"]
    #expect(try CryptTarget(words).hiddenParameters == "aes-xts-plain64 00000000 0 98:16 4096")
    let named = [words[0], ":32:logon:cryptsetup:x"] + words[2...]
    #expect(try CryptTarget(named).hiddenParameters == named.joined(separator: " "))
    // A blank in a key's name cannot be told from the end of the word.
    let line = TableLine(
      start: 0, length: 8, type: "crypt", parameters: "aes :32:logon:key name 0 98:16 0")
    #expect(throws: TargetError.self) { try CryptTarget(line) }
  }

  @Test("a status is printed as the kernel prints it", arguments: KernelPrints.statuses)
  func statuses(_ text: String) throws {
    let line = try #require(try TableText.parse("0 8 \(text)").first)
    #expect(understoodStatus(line) == line.parameters)
  }

  @Test(
    "an invalid status is refused",
    arguments: [
      "thin-pool 0 113/1024", "thin-pool 0 1/2 3/4 - rw no_discard_passdown queue_if_no_space - x ",
      "thin-pool 007 1/2 3/4 - rw discard_passdown queue_if_no_space - 1 ", "thin 1", "thin 1 2 3",
      "thin 99999999999999999999 1", "snapshot 1/2",
    ])
  func senseless(_ text: String) throws {
    let line = try #require(try TableText.parse("0 8 \(text)").first)
    #expect(understoodStatus(line) == nil)
  }

  @Test("a pool's features are accepted in any order and case, and printed in the kernel's")
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

/// The status printed again from its parsed form; nil where the status cannot be parsed.
func understoodStatus(_ line: TableLine) -> String? {
  switch line.type {
  case ThinPoolTarget.type: ThinPoolStatus(line.parameters)?.parameters
  case ThinTarget.type: ThinStatus(line.parameters)?.parameters
  case SnapshotTarget.type, SnapshotTarget.mergeType: SnapshotStatus(line.parameters)?.parameters
  default: nil
  }
}
