import BlockIO
import DataPath
import DeviceMapper
import Glibc
import Targets
import TestSupport
import Testing

private let block = blockBytes

@Suite("Files of a pool that disappear or lack space")
struct LostFileTests {
  /// What happens to a file while a pool uses it.
  enum Loss: CaseIterable {
    case deleted, cut, emptied

    func strike(_ path: String, size: Int) {
      switch self {
      case .deleted: unlink(path)
      case .cut: truncate(path, size / 2)
      case .emptied: truncate(path, 0)
      }
    }
  }

  private func used(_ folder: ScratchFolder) throws -> World {
    let (meta, data) = (
      try folder.zeros("meta", size: 1 << 20), try folder.zeros("data", size: UInt64(16 * block))
    )
    let world = try World(onFiles: true)
    let line = TableLine(
      start: 0, length: UInt64(16 * block / 512), type: "thin-pool",
      parameters: "\(meta) \(data) 128 0 0")
    try world.create("pool", [line])
    try world.makeThin(1, bytes: 8 * block)
    #expect(try world.write("thin1", at: 0, pattern(1, block)) == 0)
    #expect(try world.perform(.flush, "thin1") == 0)
    return world
  }

  @Test(
    "once a file is deleted or truncated no flush succeeds, and the pool accepts no changes",
    arguments: ["meta", "data"], Loss.allCases)
  func lost(_ name: String, _ loss: Loss) throws {
    for overwrites in [true, false] {
      let folder = try ScratchFolder()
      let world = try used(folder)
      loss.strike(folder.file(name), size: name == "meta" ? 1 << 20 : 16 * block)
      let left = loss == .deleted ? nil : try contents(of: folder.file("meta"))
      // Both without anything to commit and with a new mapping.
      _ = try world.write("thin1", at: overwrites ? 0 : block, pattern(2, block))
      #expect(try world.perform(.flush, "thin1") == EIO)
      #expect(try world.perform(.flush, "thin1") == EIO)
      #expect(
        world.log.contains { $0.contains(loss == .deleted ? "has been deleted" : "has been cut") },
        "\(world.log)")
      let status = try world.status()
      #expect(status == "Fail" || status.contains("needs_check"), "\(status)")
      #expect(world.refusal("create_thin 9") == EOPNOTSUPP)
      world.mapper.removeAll()
      // The rest of the file is unchanged.
      if let left { #expect(try contents(of: folder.file("meta")) == left) }
    }
  }

  @Test("a deleted file is readable until the end, and the log says how to keep it")
  func readable() throws {
    let folder = try ScratchFolder()
    let world = try used(folder)
    unlink(folder.file("data"))
    #expect(try world.perform(.flush, "thin1") == EIO)
    #expect(try world.read("thin1", at: 0, count: block) == pattern(1, block))
    let line = try #require(world.log.first { $0.contains("/proc/\(getpid())/fd/") })
    let path = try #require(line.split(separator: " ").first { $0.hasPrefix("/proc/") })
    #expect(access(String(path), R_OK) == 0)
  }

  @Test(
    "all space of the metadata file is reserved before anything is written, also after it has grown"
  )
  func reserved() throws {
    func taken(_ path: String) -> Int {
      var info = stat()
      return stat(path, &info) == 0 ? Int(info.st_blocks) * 512 : -1
    }
    let folder = try ScratchFolder()
    let world = try used(folder)
    let meta = folder.file("meta")
    #expect(taken(meta) >= 1 << 20)
    #expect(taken(folder.file("data")) < 4 * block)
    #expect(truncate(meta, 2 << 20) == 0)
    try world.dm.suspend(.name("pool"), [])
    try world.resume("pool")
    #expect(try taken(meta) >= 2 << 20 && world.pool().metadata.total == 512)
  }
}
