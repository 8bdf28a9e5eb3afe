import Testing
import ThinFormat

@testable import PoolManager

@Suite("Volumes on command lines")
struct VolumeSpecTests {
  @Test(
    "A volume has a name, an id, and optionally a size and an origin",
    arguments: [
      ("root=1:204800s", VolumeSpec(name: "root", id: 1, sectors: 204_800)),
      ("v=0:10G", VolumeSpec(name: "v", id: 0, sectors: 20_971_520)),
      ("v=0:10g", VolumeSpec(name: "v", id: 0, sectors: 20_971_520)),
      ("v=0:3GiB", VolumeSpec(name: "v", id: 0, sectors: 6_291_456)),
      ("v=0:1k", VolumeSpec(name: "v", id: 0, sectors: 2)),
      ("v=0:7T", VolumeSpec(name: "v", id: 0, sectors: 15_032_385_536)),
      ("v=16777215", VolumeSpec(name: "v", id: 16_777_215, sectors: nil)),
      (
        "a b=1:1m:/dev/x:y",
        VolumeSpec(name: "a b", id: 1, sectors: 2048, origin: .path("/dev/x:y"))
      ),
    ])
  func understood(_ text: String, _ volume: VolumeSpec) throws {
    #expect(try VolumeSpec(text) == volume)
  }

  @Test(
    "An invalid volume is refused",
    arguments: [
      "", "=", "v", "v=", "=1:1m", "v=x:1m", "v=16777216:1m", "v=-1:1m", "v=1:", "v=1:10",
      "v=1:0s", "v=1:1x", "v=1:g", "v=1:1gib1", "v=1:-1s", "v=1:9223372036854775807s", "v=1:8192p",
      "v=1:18446744073709551616s", "v=1:1m:", "a/b=1:1m", "v=1:\u{661}m",
      String(repeating: "n", count: 128) + "=1:1m",
    ])
  func refused(_ text: String) {
    #expect(throws: VolumeSpec.Malformed.self) { try VolumeSpec(text) }
  }
}
