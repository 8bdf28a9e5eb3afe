import BlockIO
import Testing

@Suite("Sizes of devices")
struct DeviceSizeTests {
  @Test(
    "units are powers of 1024 in either case, as for lvm2",
    arguments: [
      ("1s", 1), ("204800S", 204_800), ("512b", 1), ("1024B", 2), ("1k", 2), ("1K", 2), ("3KiB", 6),
      ("1m", 1 << 11), ("1M", 1 << 11), ("10g", 20_971_520), ("10G", 20_971_520),
      ("10gib", 20_971_520), ("2t", 1 << 32), ("1P", 1 << 41), ("1e", 1 << 51), ("7EiB", 7 << 51),
      ("0010k", 20),
    ] as [(String, UInt64)])
  func understood(_ text: String, _ sectors: UInt64) throws {
    #expect(try DeviceSize.sectors(text) == sectors)
  }

  @Test(
    "numbers without a unit, multiples of 1000, fractions and what no device can have are refused",
    arguments: [
      "", "s", "10", "10GB", "10kB", "1.5g", "-1g", "+1g", " 1g", "1g ", "1 g", "0s", "0g", "511b",
      "1sib", "1bib", "1gi", "1ib", "1x", "8e", "8192p", "18014398509481984s",
      "18446744073709551616s", "99999999999999999999999s", "\u{661}m", "1\u{fffd}", "1\0",
    ])
  func refused(_ text: String) {
    #expect(throws: DeviceSize.Malformed.self) { try DeviceSize.sectors(text) }
  }

  @Test("a refusal says what is accepted")
  func refusal() {
    let error = #expect(throws: DeviceSize.Malformed.self) { try DeviceSize.sectors("10GB") }
    #expect(error?.description == DeviceSize.rule)
  }
}
