import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import Commands

/// `dmthin extract` as a command: which files it writes, keeps, continues and refuses.
@Suite struct ExtractTests {
  private let folder: ScratchFolder
  private let metadata: String
  private let data: String
  private let device: MemoryDevice
  private static let blockBytes = 65536
  private let dataBytes: [UInt8]
  /// The content of the thin devices, to their last mapped block.
  private let truth: [UInt64: [UInt8]]
  private let id: UInt64

  init() throws {
    folder = try ScratchFolder()
    var kind = PoolHistory.Kind(
      "extracted", metadataBlocks: 300...300, commits: 10...10, operations: 5...9, window: 30...30)
    kind.snapshots = 100
    kind.discards = 100
    kind.run = 5
    let history = try PoolHistory(kind, seed: 21)
    device = history.device
    metadata = try folder.file("meta", bytes: Self.bytes(device))
    let xml = runCommand("thin_dump", metadata).output
    let pool = DumpedPool(xml: xml)
    let blocks =
      (pool.devices.values.flatMap { $0.mappings.values.map(\.dataBlock) }.max() ?? 0) + 1
    var random = SplitMix64(seed: 1)
    dataBytes = (0..<(Int(blocks) * Self.blockBytes / 8)).flatMap { _ in
      withUnsafeBytes(of: random.next()) { Array($0) }
    }
    data = try folder.file("data", bytes: dataBytes)
    var truth: [UInt64: [UInt8]] = [:]
    for (id, device) in pool.devices {
      let end = Int((device.mappings.keys.max().map { $0 + 1 }) ?? 0)
      var bytes = [UInt8](repeating: 0, count: end * Self.blockBytes)
      for (block, place) in device.mappings {
        let from = Int(place.dataBlock) * Self.blockBytes
        bytes.replaceSubrange(
          Int(block) * Self.blockBytes..<(Int(block) + 1) * Self.blockBytes,
          with: dataBytes[from..<(from + Self.blockBytes)])
      }
      truth[id] = bytes
    }
    self.truth = truth
    id = try #require(
      truth.max { ($0.value.count, $1.key) < ($1.value.count, $0.key) }?.key)
  }

  private static func bytes(_ device: MemoryDevice) -> [UInt8] {
    (0..<(device.byteCount / 4096)).flatMap { Array(device.peek($0)) }
  }

  private func extract(_ arguments: String...) -> (status: Int32, output: String, errors: String) {
    runCommand(["thin-tools", "extract", "--metadata", metadata, "--data", data] + arguments)
  }

  private func image(_ name: String = "image") -> String { folder.file(name) }

  private func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

  /// Replaces the metadata by one without these blocks.
  private func lose(_ blocks: [UInt64]) throws {
    for block in blocks { device.edit(block)[100] ^= 1 }
    _ = try folder.file("meta", bytes: Self.bytes(device))
  }

  @Test("a thin device is copied to a sparse file, with its map, and inputs stay as they are")
  func oneDevice() throws {
    let before = (try contents(of: metadata), try contents(of: data))
    let result = extract("\(id)", "-o", image())
    #expect(result.status == 0, "\(result.errors)")
    #expect(try contents(of: image()) == truth[id])
    #expect(!exists(image() + ".unfinished") && exists(image() + ".map"))
    let (map, comments) = try RescueMap.parse(contents(of: image() + ".map"), path: "map")
    #expect(map.isComplete && comments[0].contains("dmthin extract"))
    var info = stat()
    #expect(stat(image(), &info) == 0 && info.st_mode & 0o777 == 0o600)
    let mapped = (truth[id] ?? []).count
    #expect(Int(info.st_blocks) * 512 < mapped, "what is not mapped is a hole")
    let fd = open(image(), O_RDONLY)
    defer { close(fd) }
    let seekHole: Int32 = 4
    #expect(lseek(fd, 0, seekHole) < mapped)
    #expect(result.output.contains("complete") && result.output.contains("next: losetup"))
    #expect(result.errors.contains("give --size"))
    #expect((try contents(of: metadata), try contents(of: data)) == before)
  }

  @Test("all devices are copied, and what is there is not read again")
  func allDevices() throws {
    let result = extract("--all", image("images"), "--json")
    #expect(result.status == 0, "\(result.errors)")
    for (id, bytes) in truth {
      #expect(try contents(of: image("images/thin-\(id).img")) == bytes)
      #expect(exists(image("images/thin-\(id).img.map")))
    }
    let again = extract("--all", image("images"))
    #expect(again.status == 0 && !again.output.contains("65536 bytes copied"))
    #expect(
      again.output.split(separator: "\n").count { $0.hasSuffix("; 0 bytes copied") } == truth.count)
  }

  @Test("a size larger than what is mapped gives zeros, a smaller one cuts")
  func sizes() throws {
    let bytes = try #require(truth[id])
    #expect(extract("\(id)", "-o", image(), "--size", "16m").status == 0)
    #expect(
      try contents(of: image()) == bytes + [UInt8](repeating: 0, count: 16 << 20 - bytes.count))
    #expect(extract("\(id)", "-o", image("small"), "--size", "201s").status == 0)
    #expect(try contents(of: image("small")) == Array(bytes[..<(201 * 512)]))
  }

  @Test("a dry run writes nothing and lists every device")
  func dryRun() throws {
    let result = extract("--dry-run")
    #expect(result.status == 0, "\(result.errors)")
    for id in truth.keys { #expect(result.output.contains("thin device \(id): ")) }
    #expect(extract("--dry-run", "\(id)").output.contains("1 thin devices"))
    #expect(Folder.names(in: folder.path).sorted() == ["data", "meta"])
  }

  @Test(
    "an invalid command line is refused before anything is opened",
    arguments: [
      [], ["1"], ["1", "2"], ["x", "-o", "f"], ["--all", "f", "-o", "g"], ["--all", "f", "1"],
      ["-o", "f"], ["1", "-o", "f", "--size", "5"], ["--all", "f", "--size", "1g"],
      ["1", "-o", "f", "--metadata-offset", "100"],
      ["1", "-o", "f", "-m", "--generation", "newest"],
    ])
  func usage(_ arguments: [String]) {
    let result = runCommand(
      ["thin-tools", "extract", "--metadata", "none", "--data", "none"] + arguments)
    #expect(result.status == 2, "\(result.errors)")
  }

  @Test("existing files, inputs and maps of other images are kept")
  func refusals() throws {
    let text = try folder.file("text", text: "precious\n")
    #expect(extract("\(id)", "-o", image()).status == 0)
    let before = try ["image", "image.map", "text", "meta", "data"].map {
      try contents(of: image($0))
    }
    let other = try #require(truth.keys.first { $0 != id })
    let cases: [([String], Int32)] = [
      (["\(id)", "-o", text], 73), (["\(id)", "-o", metadata], 73), (["\(id)", "-o", data], 73),
      (["\(id)", "-o", image(), "--size", "16m"], 73), (["\(other)", "-o", image()], 73),
      (["\(id)", "-o", image("x"), "--map", text], 73),
      (["\(id)", "-o", image("x"), "--map", data], 73),
      (["\(id)", "-o", image("x"), "--map", image("x")], 73),
      (["\(id)", "-o", image("x"), "--map", image("x.unfinished")], 73),
      (["\(id)", "-o", "/dev/null"], 73), (["\(id)", "-o", folder.path], 73),
      (["\(id)", "-o", image("none/x")], 73), (["9999", "-o", image("x")], 64),
    ]
    for (arguments, status) in cases {
      let result = runCommand(
        ["thin-tools", "extract", "--metadata", metadata, "--data", data] + arguments)
      #expect(result.status == status, "\(arguments): \(result.errors)")
      #expect(
        try ["image", "image.map", "text", "meta", "data"].map { try contents(of: image($0)) }
          == before, "\(arguments)")
      #expect(!exists(image("x")) && !exists(image("x.unfinished")), "\(arguments)")
    }
    #expect(extract("\(other)", "-o", image(), "--force").status == 0)
    #expect(try contents(of: image()) == truth[other])
  }

  @Test("an unfinished image is continued with its map, and only what is missing is read")
  func continued() throws {
    let bytes = try #require(truth[id])
    #expect(extract("\(id)", "-o", image()).status == 0)
    let whole = try contents(of: image() + ".map")
    let (parsed, comments) = try RescueMap.parse(whole, path: "map")
    // As after a kill: two blocks are missing, one of them was bad.
    var map = parsed
    var partial = bytes
    let size = Self.blockBytes
    let missing = [1, 4].map { $0 * size..<($0 + 1) * size }
    map.set(UInt64(missing[0].lowerBound)..<UInt64(missing[0].upperBound), .untried)
    map.set(UInt64(missing[1].lowerBound)..<UInt64(missing[1].upperBound), .bad)
    // What the map says to be there is not read: a mark shows that.
    for range in missing { for i in range { partial[i] = 0 } }
    partial[2 * size] ^= 0xff
    let text = map.text(comments: Array(comments.filter { !$0.contains("_pos") }))
    for isRenamed in [false, true] {
      unlink(image())
      let name = isRenamed ? "image" : "image.unfinished"
      _ = try folder.file(name, bytes: partial)
      _ = try folder.file("image.map", text: text)
      let result = extract("\(id)", "-o", image())
      #expect(result.status == 0, "\(result.errors)")
      var expected = bytes
      expected[2 * size] ^= 0xff
      #expect(try contents(of: image()) == expected, "\(name)")
      #expect(!exists(image("image.unfinished")))
      #expect(try RescueMap.parse(contents(of: image() + ".map"), path: "map").map.isComplete)
    }
  }

  @Test("an unfinished image without its map, or of another size, is kept")
  func doubtfulRemains() throws {
    _ = try folder.file("image.unfinished", text: "x")
    let result = extract("\(id)", "-o", image())
    #expect(result.status == 73 && result.errors.contains("--force"), "\(result.errors)")
    #expect(try contents(of: image("image.unfinished")) == Array("x".utf8))
    #expect(extract("\(id)", "-o", image("other")).status == 0)
    #expect(rename(image("other.map"), image("image.map")) == 0)
    #expect(extract("\(id)", "-o", image()).status == 73)
    // An empty one is from a run that ended at once.
    _ = try folder.file("image.unfinished", text: "")
    unlink(image("image.map"))
    #expect(extract("\(id)", "-o", image()).status == 0)
    #expect(try contents(of: image()) == truth[id])
  }

  @Test("what is lost with metadata is zeros, marked in the map and listed, with status 64")
  func lostMetadata() throws {
    let leaves = try BlockCatalogue(device).blocks[.node(.mappings, isLeaf: true)] ?? []
    try lose(leaves)
    let result = extract("--all", image("images"), "--json")
    #expect(result.status == 64, "\(result.errors)")
    #expect(result.output.contains("\"whole\":false"))
    let dry = extract("--dry-run")
    #expect(dry.status == 64 && dry.output.contains("lost"))
  }

  @Test("mappings beyond a data device that is too short are lost, and nothing is read there")
  func shortData() throws {
    let size = dataBytes.count / 2 / 512 * 512
    _ = try folder.file("data", bytes: Array(dataBytes[..<size]))
    let result = extract("--all", image("images"), "--json")
    #expect(result.status == 64, "\(result.errors)")
    for (id, bytes) in truth {
      let path = image("images/thin-\(id).img")
      let found = try contents(of: path)
      let map = try RescueMap.parse(contents(of: path + ".map"), path: "map").map
      map.forEach { range, status in
        let range = Int(range.lowerBound)..<Int(range.upperBound)
        if status == .finished {
          #expect(found[range] == bytes[range])
        } else {
          #expect(status == .bad && found[range].allSatisfy { $0 == 0 })
        }
      }
    }
  }

  @Test("a lost superblock needs the size of data blocks, and what is found then is doubtful")
  func lostSuperblock() throws {
    try lose([0])
    let refused = extract("\(id)", "-o", image())
    #expect(refused.status == 64 && refused.errors.contains("--data-block-size"))
    let result = extract("\(id)", "-o", image(), "--data-block-size", "128")
    #expect([0, 64].contains(result.status), "\(result.errors)")
    #expect(try contents(of: image()) == truth[id])
    let comments = try RescueMap.parse(contents(of: image() + ".map"), path: "map").comments
    #expect((result.status == 64) == comments.contains { $0.hasPrefix("doubtful: ") })
  }

  @Test("metadata is read from a packed file, and both from inside of larger files")
  func otherSources() throws {
    let pack = image("pack")
    #expect(runCommand("thin_metadata_pack", "-i", metadata, "-o", pack).status == 0)
    #expect(
      runCommand(
        "thin-tools", "extract", "--metadata", pack, "--data", data, "\(id)", "-o", image()
      ).status == 0)
    #expect(try contents(of: image()) == truth[id])
    let disk = try folder.file(
      "disk",
      bytes: [UInt8](repeating: 7, count: 512) + contents(of: metadata)
        + [UInt8](repeating: 9, count: 512) + dataBytes)
    let offset = 2 + (try contents(of: metadata)).count / 512
    let result = runCommand(
      "thin-tools", "extract", "--metadata", disk, "--metadata-offset", "1s", "--data", disk,
      "--data-offset", "\(offset)s", "\(id)", "-o", image("inside"))
    #expect(result.status == 0, "\(result.errors)")
    #expect(try contents(of: image("inside")) == truth[id])
  }

  @Test("a pool that is in use is refused, and an image in use is not continued")
  func inUse() throws {
    let fd = open(data, O_RDWR)
    #expect(flock(fd, LOCK_EX) == 0)
    #expect(extract("\(id)", "-o", image()).status == 75)
    close(fd)
    _ = try folder.file("image.unfinished", text: "")
    let other = open(image("image.unfinished"), O_RDWR)
    #expect(flock(other, LOCK_EX) == 0)
    #expect(extract("\(id)", "-o", image()).status == 75)
    close(other)
    #expect(extract("\(id)", "-o", image()).status == 0)
  }

  @Test("the commands that are printed fit what is in the image")
  func advice() throws {
    func commands(_ bytes: [UInt8], at offset: Int) throws -> [String] {
      var image = [UInt8](repeating: 0, count: 1 << 17)
      image.replaceSubrange(offset..<(offset + bytes.count), with: bytes)
      return MountAdvice.commands(
        image: try folder.file("try", bytes: image), isBlockDevice: false)
    }
    #expect(try commands([0x53, 0xef], at: 1080)[0].hasPrefix("mount -o ro,noload,loop "))
    #expect(try commands(Array("XFSB".utf8), at: 0)[0].hasPrefix("mount -o ro,norecovery,loop "))
    let disk = try commands([0x55, 0xaa], at: 510)
    #expect(disk.count == 2 && disk[0].contains("--read-only --partscan"))
    #expect(try commands([], at: 0)[0].hasPrefix("losetup "))
  }
}
