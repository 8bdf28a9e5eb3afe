import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat

/// Known failures of the original tools, which must not occur here.
@Suite struct WeaknessTests {
  private func restored(_ xml: String, _ folder: ScratchFolder, _ options: String...) throws
    -> (result: ProcessResult, image: String)
  {
    let file = try folder.file("pool.xml", text: xml)
    let image = try folder.zeros("image", size: 4 << 20)
    let result = try run([Tools.path("thin_restore"), "-i", file, "-o", image] + options)
    return (result, image)
  }

  private func hasSuperblock(_ image: String) throws -> Bool {
    try contents(of: image).prefix(4096).contains { $0 != 0 }
  }

  @Test("a restore whose writes fail reports it, and leaves the old pool")
  func failedWrites() throws {
    let folder = try ScratchFolder()
    let xml = folder.file("a.xml")
    #expect(try ours("thin_dump", "-o", xml, Pools.path("multi-level")).status == 0)
    let tool = try Tools.path("thin_restore")
    for limit in [4, 256, 1024] {
      for signals in ["trap '' XFSZ", "true"] {
        // An older pool is there already.
        let image = try folder.copy(of: Pools.path("fresh"), as: "image", size: 32 << 20)
        let result = try shell(
          "\(signals); ulimit -f \(limit); ulimit -c 0; exec '\(tool)' -i '\(xml)' -o '\(image)'")
        #expect(result.status == 74 && result.errors.contains("File too large"))
        #expect(try ours("thin_check", image).status == 0)
        #expect(
          try ours("thin_dump", image).output == ours("thin_dump", Pools.path("fresh")).output)
      }
    }
  }

  @Test("skipping mappings neither writes nor fails if the needs-check flag is set")
  func skipMappings() throws {
    let folder = try ScratchFolder()
    let image = try folder.copy(of: Pools.path("needs-check"), as: "image")
    chmod(image, 0o444)
    let result = try ours("thin_check", "--skip-mappings", image)
    #expect(result.status == 0 && result.errors.isEmpty)
    #expect(try contents(of: image) == contents(of: Pools.path("needs-check")))
  }

  @Test("times that do not fit a mapping are refused, not mixed into the data block")
  func largeTimes() throws {
    let folder = try ScratchFolder()
    for time in ["16777216", "99999999", "4294967296"] {
      let (result, image) = try restored(
        poolXML(mapped: 1, time: 16_777_215, single(0, 400, time: time)), folder)
      #expect(result.status == 64 && result.errors.contains(time), "\(result.errors)")
      #expect(try !hasSuperblock(image))
    }
    let (result, image) = try restored(
      poolXML(mapped: 1, time: 16_777_215, single(0, 400, time: "16777215")), folder)
    #expect(result.status == 0)
    #expect(try peers("thin_dump", image).text.contains(single(0, 400, time: "16777215")))
  }

  @Test("device ids above 24 bits, second ids and nameless defs are refused")
  func impossiblePools() throws {
    let folder = try ScratchFolder()
    let sound = poolXML(mapped: 1, single(0, 0))
    let device = sound.split(separator: "\n").dropFirst().dropLast().joined(separator: "\n")
    for xml in [
      poolXML(mapped: 1, id: "16777216", single(0, 0)),
      sound.split(separator: "</superblock>")[0] + device + "\n</superblock>",
      poolXML(mapped: 1, "<ref/>"),
      sound.split(separator: "\n")[0] + "\n<def>\n</def>\n</superblock>",
      poolXML(mapped: 2, single(1, 0) + "\n" + single(0, 1)),
      poolXML(mapped: 2, single(0, 0) + "\n" + single(0, 1)),
      poolXML(mapped: 1, single(0, 1000)),
    ] {
      let (result, image) = try restored(xml, folder)
      #expect(result.status == 64 && result.errors.hasPrefix("error: "), "\(xml)\(result.errors)")
      #expect(try !hasSuperblock(image))
    }
  }

  @Test("a wrong count of mappings in the dump is not written", arguments: [0, 2])
  func wrongCounts(_ count: Int) throws {
    let folder = try ScratchFolder()
    let (result, image) = try restored(poolXML(mapped: count, single(0, 0)), folder)
    #expect(result.status == 0 && result.errors.contains("mapped_blocks says \(count);"))
    #expect(try peers("thin_check", image).status == 0)
  }

  @Test("more data blocks than in the dump get the bitmaps that they need")
  func moreDataBlocks() throws {
    let folder = try ScratchFolder()
    let (result, image) = try restored(
      poolXML(mapped: 1, single(0, 0)), folder, "--nr-data-blocks", "1000000")
    #expect(result.status == 0, "\(result.errors)")
    #expect(try ours("thin_check", image).status == 0)
    #expect(try peers("thin_check", image).status == 0)
    #expect(try ours("thin_dump", image).text.contains("nr_data_blocks=\"1000000\""))
  }

  @Test("a repair of leaks frees the space, in bitmaps and sums, also for the peer")
  func repair() throws {
    let folder = try ScratchFolder()
    let pool = try Pools.path("snapshots-of-snapshots")
    let device = try MemoryDevice(contentsOf: pool)
    let catalogue = try BlockCatalogue(device)
    for role in [BlockCatalogue.Role.dataBitmap, .metadataBitmap] {
      for bitmap in catalogue.blocks[role] ?? [] {
        device.change(bitmap, .bitmap) { for i in 1000..<1500 { Bitmap.setCount($0, i, 3) } }
      }
    }
    let bytes = (0..<(device.byteCount / 4096)).flatMap { Array(device.peek($0)) }
    let image = try folder.file("leaky", bytes: bytes)
    let found = try ours("thin_check", image)
    #expect(found.status == 65 && found.errors.contains("have leaked"))
    #expect(try ours("thin_check", "--ignore-non-fatal-errors", image).status == 0)
    #expect(try contents(of: image) == bytes)
    let mended = try ours("thin_check", "--auto-repair", image)
    #expect(mended.status == 0 && mended.errors.contains("Repaired the space maps"))
    #expect(try ours("thin_check", image).status == 0)
    #expect(try peers("thin_check", image).status == 0)
    #expect(try peers("thin_dump", image).output == peers("thin_dump", pool).output)
  }

  @Test("a prologue, a document type and comments are part of XML")
  func prologue() throws {
    let folder = try ScratchFolder()
    let text = poolXML(mapped: 1, single(0, 0))
    for head in [
      "<?xml version=\"1.0\"?>\n", "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n",
      "<!DOCTYPE superblock>\n", "<?xml version='1.0'?>\n<!-- a dump -->\n<!DOCTYPE superblock>\n",
    ] {
      let (result, image) = try restored(head + text + "\n<!-- end -->\n", folder)
      #expect(result.status == 0, "\(result.errors)")
      #expect(try ours("thin_dump", image).text == text)
    }
  }

  @Test("the memory of a restore does not grow with the number of mappings")
  func restoreMemory() throws {
    let folder = try ScratchFolder()
    let count = 1_000_000
    var body = ""
    body.reserveCapacity(80 * count)
    // A stride that is prime to the size: every mapping stands alone.
    for i in 0..<count { body += single(i, i * 7919 % count) + "\n" }
    let xml = try folder.file("a.xml", text: poolXML(mapped: count, dataBlocks: count, body))
    let image = try folder.zeros("image", size: 64 << 20)
    let result = try ours("thin_restore", "-i", xml, "-o", image)
    #expect(result.status == 0, "\(result.errors)")
    #expect(result.peakKiB > 0 && result.peakKiB < 24 * 1024, "\(result.peakKiB) KiB")
    #expect(try ours("thin_check", image).status == 0)
  }

  @Test("a check of a few blocks does not take half a second")
  func quickCheck() throws {
    let pool = try Pools.path("fresh")
    let seconds = try (0..<5).map { _ in try ours("thin_check", "-q", pool).seconds }
    #expect((seconds.min() ?? 1) < 0.4, "\(seconds)")
  }
}
