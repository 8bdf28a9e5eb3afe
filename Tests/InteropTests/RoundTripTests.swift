import Glibc
import TestSupport
import Testing

/// What one tool writes, all tools read.
@Suite struct RoundTripTests {
  private func expectClean(_ image: String) throws {
    for result in [try ours("thin_check", image), try peers("thin_check", image)] {
      #expect(result.status == 0, "\(result.errors)")
    }
  }

  @Test(
    "a dump that is restored is sound to both checks and dumps the same", arguments: Pools.names)
  func roundTrip(_ name: String) throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path(name)
    let size = UInt64(try contents(of: pool).count)
    let xml = folder.file("a.xml")
    #expect(try ours("thin_dump", "-o", xml, pool).status == 0)
    let image = try folder.zeros("restored", size: size)
    let restored = try ours("thin_restore", "-i", xml, "-o", image)
    #expect(restored.status == 0 && restored.output.isEmpty, "\(restored.errors)")
    try expectClean(image)

    let original = String(decoding: try contents(of: xml), as: UTF8.self)
    let again = try ours("thin_dump", image)
    #expect(withoutNames(again.text) == withoutNames(original))
    #expect(try peers("thin_dump", image).output == again.output)
    #expect(
      try ours("thin_check", image).text.hasPrefix(
        ours("thin_check", pool).text.prefix { $0 != "\n" }))

    // Once restored, restoring again changes nothing at all.
    let second = try folder.zeros("second", size: size)
    _ = try folder.file("b.xml", bytes: again.output)
    #expect(try ours("thin_restore", "-i", folder.file("b.xml"), "-o", second).status == 0)
    #expect(try contents(of: second) == contents(of: image))
  }

  @Test(
    "metadata restored by the peer passes the check and has the same dump", arguments: Pools.names)
  func peerRestores(_ name: String) throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path(name)
    let xml = folder.file("a.xml")
    #expect(try peers("thin_dump", "-o", xml, pool).status == 0)
    let image = try folder.zeros("restored", size: UInt64(try contents(of: pool).count))
    #expect(try peers("thin_restore", "-i", xml, "-o", image).status == 0)
    let check = try ours("thin_check", image)
    #expect(check.status == 0, "\(check.errors)")
    let model = DumpedPool(xml: try ours("thin_dump", image).text)
    var original = DumpedPool(xml: String(decoding: try contents(of: xml), as: UTF8.self))
    // The peer leaves the needs-check flag out.
    original.attributes["flags"] = nil
    #expect(model == original)
  }

  @Test("a device above 16 GiB gets a warning and is used only up to the limit")
  func largeDevice() throws {
    let folder = try ScratchFolder()
    let image = try folder.zeros("large", size: 17 << 30)
    let xml = try folder.file("a.xml", text: poolXML(mapped: 1, single(0, 0)))
    let restored = try ours("thin_restore", "-i", xml, "-o", image)
    #expect(restored.status == 0)
    #expect(restored.errors.contains("larger than 33292800 sectors"))
    let check = try ours("thin_check", image)
    #expect(check.status == 0 && check.errors.contains("excess space will not be used"))
    #expect(check.text.contains("METADATA_FREE_BLOCKS=4161"))
    #expect(try peers("thin_check", image).status == 0)
    let fd = open(image, O_RDONLY | O_CLOEXEC)
    defer { close(fd) }
    let seekData: Int32 = 3  // SEEK_DATA, which is hidden from Swift
    let next = lseek(fd, 4_161_600 * 4096, seekData)
    #expect(next == -1 && errno == ENXIO, "data past the limit, at \(next)")
  }
}
