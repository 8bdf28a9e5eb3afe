import DataPath
import DeviceMapper
import Glibc
import Targets
import TestSupport
import Testing
import ThinTools

private let block = blockBytes

@Suite("Thin pools in user space over files")
struct RealDiskTests {
  /// Data blocks that a file has on disk, without what the file system needs to find them.
  private func taken(_ path: String) -> Int {
    var info = stat()
    return stat(path, &info) == 0 ? Int(info.st_blocks) * 512 / block : -1
  }

  /// tmpfs refuses O_DIRECT on older kernels, other file systems take it.
  @Test(
    "a pool on files keeps data, shares it, and frees space",
    arguments: [nil, "/dev/shm"])
  func files(_ base: String?) throws {
    if let base, access(base, W_OK) != 0 { return }
    let folder = try ScratchFolder(in: base)
    let (meta, data) = (
      try folder.zeros("à meta", size: 1 << 20),
      try folder.zeros("da\\ta", size: UInt64(64 * block))
    )
    let line = TableLine(
      start: 0, length: UInt64(64 * block / 512), type: "thin-pool",
      parameters: "\(NameMangling.word(meta)) \(data) 128 0 0")
    let old = pattern(1, 9 * block)
    let change = pattern(2, 4096)
    var new = old
    new.replaceSubrange(block + 512..<block + 512 + 4096, with: change)
    do {
      let world = try World(onFiles: true)
      try world.create("pool", [line])
      try world.makeThin(1, bytes: 16 * block)
      #expect(try world.write("thin1", at: 0, old) == 0)
      try world.snapshot(2, of: 1)
      try world.activate(2, bytes: 16 * block)
      #expect(try world.write("thin1", at: block + 512, change) == 0)
      #expect(try world.perform(.flush, "thin1") == 0)
      #expect(taken(data) == 10)
      // The files cannot be opened a second time meanwhile.
      let other = try World(onFiles: true)
      #expect(throws: DeviceMapperError(.create, device: "pool", code: EBUSY).self) {
        do throws(DeviceMapperError) {
          try other.dm.create(DeviceCreation(name: "pool", table: [line]))
        } catch {
          throw DeviceMapperError(.create, device: "pool", code: error.code)
        }
      }
      world.mapper.removeAll()
    }
    let world = try World(onFiles: true)
    try world.create("pool", [line])
    for id in 1...2 { try world.activate(id, bytes: 16 * block) }
    #expect(try world.read("thin1", at: 0, count: 10 * block) == new + zeros(block))
    #expect(try world.read("thin2", at: 0, count: 10 * block) == old + zeros(block))
    #expect(try world.perform(.discard, "thin2", at: 0, count: 4 * block) == 0)
    // Block 1 is free now.
    #expect(taken(data) == 9)
    #expect(try world.perform(.writeZeroes, "thin1", at: 0, count: 2 * block) == 0)
    #expect(taken(data) == 7)
    #expect(
      try world.read("thin1", at: 0, count: 9 * block) == zeros(2 * block) + old[(2 * block)...])
    world.mapper.removeAll()
    let report = try World.check(try contents(of: meta))
    #expect(report.isClean, "\(report.findings)")
  }
}
