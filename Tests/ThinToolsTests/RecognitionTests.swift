import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import ThinTools

@Suite struct RecognitionTests {
  private func image(_ bytes: [UInt8], at offset: Int, size: Int = 1 << 17) -> [UInt8] {
    var image = [UInt8](repeating: 0, count: size)
    image.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    return image
  }

  @Test("XML is recognised with a prologue, a doctype, comments, blanks and a byte-order mark")
  func xml() {
    for start in ["", "\u{feff}", " \n\t", "\u{feff}\r\n"] {
      for text in ["<superblock ", "<?xml version", "<!DOCTYPE x", "<!-- x -->"] {
        #expect(Recognizer.recognize(Array((start + text).utf8)) == .xml)
      }
    }
    for text in ["", "<", "superblock", "?xml", "\0<superblock", "<device "] {
      #expect(!Recognizer.isXML(Array(text.utf8)))
    }
  }

  @Test("every known format is recognised by its signature alone")
  func marks() {
    for (bytes, offset, words) in [
      ([0x53, 0xef], 1080, "ext4"), (Array("XFSB".utf8), 0, "XFS"), (Array("LUKS".utf8), 0, "LUKS"),
      (Array("_BHRfS_M".utf8), 65_600, "btrfs"), ([0x51, 0x46, 0x49, 0xfb], 0, "qcow2"),
      (Array("EFI PART".utf8), 512, "partition table"), ([0x55, 0xaa], 510, "partition table"),
      ([0x1f, 0x8b], 0, "gzip"), (Array("BZh".utf8), 0, "bzip2"),
      ([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], 0, "xz"), ([0x04, 0x22, 0x4d, 0x18], 0, "lz4"),
      ([0x28, 0xb5, 0x2f, 0xfd], 0, "zstd"), ([0x03, 0xc4, 0x18], 32, "dm-cache"),
      ([0x7b, 0x07, 0xc1, 0x7e], 32, "dm-era"), ([0xba, 0x52, 0x9c, 0x01], 32, "metadata once"),
      ([0x77, 0xef, 9, 0x63, 0xaa, 0xa0, 0x37, 0xa5], 0, "packed"),
      (Array("begin superblock: ".utf8), 0, "human_readable"), (Array("LABELONE".utf8), 512, "LVM"),
      ([], 0, "all zeroes"), ([1], 7, "data device"),
    ] as [([UInt8], Int, String)] {
      let found = Recognizer.recognize(image(bytes, at: offset))
      #expect(found.explanation?.contains(words) == true, "\(words): \(found)")
      #expect(!found.next("/dev/x y").isEmpty, "\(words)")
    }
    #expect(Recognizer.recognize([]) == .zeros)
  }

  @Test("a superblock at any sector is found, and one in its place is metadata")
  func offsets() throws {
    let pool = try MemoryDevice(contentsOf: Pools.path("fresh"))
    let superblock = Array(pool.peek(0))
    #expect(Recognizer.recognize(superblock) == .metadata)
    #expect(Recognizer.recognize(image(superblock, at: 0)) == .metadata)
    for offset in [512, 4096, 63 * 512, 65_536, (1 << 20), (16 << 20) - 4096] {
      let found = Recognizer.recognize(image(superblock, at: offset, size: 16 << 20))
      #expect(found == .metadataBehind(byteOffset: UInt64(offset)))
    }
    // The copy that a metadata snapshot holds has another number, and begins no device.
    let held = try MemoryDevice(contentsOf: Pools.path("held-metadata-snapshot"))
    let copy = Array(held.peek(held.superblock.metadataSnapshot))
    #expect(Recognizer.recognize(image(copy, at: 8192)) == .unknown)
  }

  @Test("a physical volume is described with its group, and its volumes with metadata")
  func physicalVolume() {
    func number(_ value: UInt64, _ count: Int) -> [UInt8] {
      (0..<count).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
    }
    let text = """
      vg0 {
      \tid = "x"
      \tlogical_volumes {
      \t\tsegment1 {
      \t\t\ttype = "thin-pool"
      \t\t\tmetadata = "pool_tmeta"
      \t\t\tmetadata = "cache_cmeta"
      \t\t\tmetadata = "$(reboot)_tmeta"

      """
    var bytes = [UInt8](repeating: 0, count: 1 << 17)
    func put(_ part: [UInt8], at offset: Int) {
      bytes.replaceSubrange(offset..<offset + part.count, with: part)
    }
    put(Array("LABELONE".utf8) + number(1, 8) + number(0, 4) + number(32, 4), at: 512)
    put(Array("LVM2 001".utf8), at: 536)
    put(number(1 << 40, 8) + number(1 << 20, 8) + number(0, 8), at: 544 + 32)
    put(number(0, 16) + number(4096, 8) + number(1 << 20, 8), at: 544 + 56)
    put(Array(" LVM2 x[5A%r0N*>".utf8), at: 4100)
    put(number(512, 8) + number(UInt64(text.utf8.count), 8), at: 4096 + 40)
    put(Array(text.utf8), at: 4096 + 512)
    let found = Recognizer.recognize(bytes)
    guard case .physicalVolume(let label) = found else {
      Issue.record("\(found)")
      return
    }
    #expect(label.volumeGroup == "vg0" && label.metadataVolumes == ["pool_tmeta"])
    #expect(found.next("x") == ["lvchange -ay vg0/pool_tmeta"])
    // Damaged labels never make the parser trap.
    var random = SplitMix64(seed: seed())
    for _ in 0..<2000 {
      var damaged = Array(bytes.prefix(8192))
      for _ in 0..<Int.random(in: 1...8, using: &random) {
        let at = Int.random(in: 512..<5000, using: &random)
        damaged[at] = UInt8.random(in: 0...255, using: &random)
      }
      _ = LVMLabel(Array(damaged.prefix(Int.random(in: 0...8192, using: &random))))
    }
  }
}
