import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import PoolServer

@Suite("The plan for a pool's two devices")
struct PoolPlanTests {
  private let folder: ScratchFolder
  private let metadata: String
  private let data: String

  /// A pool of 100 blocks: device 1 ends with block 6, device 2 is empty, device 3 has block 0.
  init() throws {
    folder = try ScratchFolder()
    metadata = try folder.zeros("meta data", size: 4 << 20)
    data = try folder.zeros("data", size: 100 * 65_536 + 512)
    let device = try FileDevice(path: metadata, access: .readWrite, exclusive: true)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: 100)
    // Blocks are allocated from those free at the last commit.
    try pool.commit()
    for id in [1, 2, 3] as [ThinID] { try pool.createThin(id) }
    for (id, block) in [(1, 2), (1, 6), (3, 0)] as [(ThinID, VirtualBlock)] {
      try pool.openDevice(id)
      try pool.insert(id, block, dataBlock: try pool.allocateDataBlock())
      try pool.closeDevice(id)
    }
    try pool.commit()
  }

  private func plan(_ change: (inout ServeOptions) throws -> Void = { _ in }) throws -> PoolPlan {
    var options = ServeOptions()
    try change(&options)
    return try PoolPlan(options, metadata: metadata, data: data)
  }

  private func refusal(_ change: (inout ServeOptions) throws -> Void) -> ToolError.Cause? {
    do {
      _ = try plan(change)
      return nil
    } catch {
      return (error as? ToolError)?.cause
    }
  }

  @Test(
    "Without volumes every device is served up to its last mapped block; empty ones are reported")
  func everything() throws {
    let plan = try plan()
    #expect(plan.devices.map(\.name) == ["pool", "thin1", "thin3"])
    let lines = plan.devices.flatMap(\.table)
    let word = metadata.replacing(" ", with: "\\x20")
    #expect(lines[0].parameters == "\(word) \(data) 128 5 0 ")
    #expect(lines.map(\.length) == [12_800, 896, 128])
    #expect(lines[1].parameters == "/dev/mapper/pool 1")
    #expect(plan.notes.contains { $0.hasPrefix("thin device 2 has no mapped blocks") })
    #expect(plan.notes.count == 3)
  }

  @Test(
    "A device whose id is larger than any that can be made is named, not served, and taken for no other",
    arguments: [1 << 24, (1 << 32) + 1] as [UInt64], [false, true])
  func largeID(_ id: UInt64, isReadOnly: Bool) throws {
    let image = try MemoryDevice(contentsOf: metadata)
    #expect(image.changeLastDeviceID(to: id) == [3, 3])
    let device = try FileDevice(path: metadata, access: .readWrite, exclusive: false)
    for block in image.changedBlocks { try device.write(image.peek(block), at: block * 4096) }
    let plan = try plan { $0.isReadOnly = isReadOnly }
    #expect(plan.devices.map(\.name) == ["pool", "thin1"])
    #expect(
      plan.notes.filter {
        $0.hasPrefix("thin device \(id): ") && $0.contains("at most 16777215")
          && $0.contains("not served")
      }.count == 1, "\(plan.notes)")
  }

  @Test("Requested volumes are served as requested")
  func named() throws {
    let plan = try plan {
      $0.name = "p"
      $0.volumes = [try VolumeSpec("b=2:1m"), try VolumeSpec("a=1"), try VolumeSpec("c=9:8s:/o p")]
      $0.features = [.skipBlockZeroing]
      $0.lowWaterBlocks = 77
    }
    #expect(
      plan.devices.flatMap(\.table).map(\.description).map { $0.replacing(metadata, with: "") }
        .dropFirst() == [
          "0 2048 thin /dev/mapper/p 2", "0 896 thin /dev/mapper/p 1",
          "0 8 thin /dev/mapper/p 9 /o\\x20p",
        ])
    #expect(plan.devices[0].table[0].parameters.hasSuffix(" 128 77 1 skip_block_zeroing "))
    #expect(plan.notes.count == 1)
  }

  @Test("If read-only, the volumes have read-only tables, and the pool has the feature")
  func readOnly() throws {
    let plan = try plan { $0.isReadOnly = true }
    // The kernel refuses pools in read-only tables.
    #expect(plan.devices.map(\.isReadOnly) == [false, true, true])
    #expect(plan.devices[0].table[0].parameters.hasSuffix(" 1 read_only "))
  }

  @Test("Requests that do not fit the pool are refused")
  func refusals() throws {
    #expect(refusal { $0.volumes = [try VolumeSpec("a=2")] } == .refused)
    #expect(refusal { $0.volumes = [try VolumeSpec("a=9")] } == .refused)
    #expect(refusal { $0.volumes = [try VolumeSpec("pool=1:1m")] } == .refused)
    #expect(throws: ToolError.self) { try PoolInspection(metadata: metadata, data: metadata) }
    #expect(truncate(data, 99 * 65_536) == 0)
    #expect(refusal { _ in } == .refused)
    #expect(truncate(data, 200 * 65_536) == 0)
    #expect(try plan().notes.contains { $0.contains("grown from 100 to 200 blocks") })
  }

  @Test("A pool in memory is new: its sizes are chosen, and its volumes made")
  func inMemory() throws {
    func plan(_ metadata: String, _ data: String, _ volumes: [String]) throws -> PoolPlan {
      var options = ServeOptions()
      options.volumes = try volumes.map { try VolumeSpec($0) }
      return try PoolPlan(options, metadata: metadata, data: data)
    }
    let made = try plan("memory:16m", "memory:1g", ["root=1:10g", "again=1:1m", "b=7:1g"])
    #expect(made.devices.map(\.name) == ["pool", "root", "again", "b"])
    #expect(made.newThins == [1, 7])
    #expect(
      made.devices[0].table[0].description
        == "0 2097152 thin-pool memory:16m memory:1g 128 819 0 ")
    #expect(made.notes.count == 1 && made.notes[0].contains("lost at the end"))
    func cause(_ metadata: String, _ data: String, _ volumes: [String] = []) -> ToolError? {
      do {
        _ = try plan(metadata, data, volumes)
        return nil
      } catch {
        return error as? ToolError
      }
    }
    #expect(cause("memory:16m", "memory:1g", ["root=1"])?.message.contains("root=1:SIZE") == true)
    #expect(cause("memory:16m", data)?.message.contains("needs both") == true)
    #expect(cause(metadata, "memory:1g")?.message.contains("needs both") == true)
    #expect(cause("memory:1g", "memory:1g")?.message.contains("memory:1g/data") == true)
    #expect(cause("mirror:1g", "memory:1g")?.message.contains("no kind of disk") == true)
    #expect(cause("memory:4k", "memory:1g")?.message.contains("too few") == true)
    let named = try self.plan { _ in }
    let schemed = try PoolPlan(ServeOptions(), metadata: "file:" + metadata, data: "file:" + data)
    #expect(named.devices == schemed.devices)
  }

  @Test("A locked pool is busy, even if its metadata is inconsistent meanwhile")
  func busy() throws {
    let device = try FileDevice(path: metadata, access: .readWrite, exclusive: true)
    let zeros = AlignedBuffer(count: 4096)
    try device.write(UnsafeRawBufferPointer(zeros.bytes), at: 0)
    do {
      _ = try plan { _ in }
      Issue.record("taken")
    } catch {
      #expect((error as? ToolError)?.isInUse == true, "\(error)")
    }
    withExtendedLifetime((device, zeros)) {}
  }

  @Test("Blank, damaged and missing metadata get different errors")
  func noMetadata() throws {
    let blank = try folder.zeros("blank", size: 1 << 20)
    let junk = try folder.file("junk", bytes: Array(repeating: 7, count: 8192))
    let cases: [(String, (ToolError) -> Bool)] = [
      (blank, { $0.cause == .refused }), (junk, { $0.isDamage }),
      ("/none", { if case .system(let error) = $0.cause { error.code == ENOENT } else { false } }),
    ]
    for (path, isRight) in cases {
      do {
        _ = try PoolInspection(metadata: path, data: data)
        Issue.record("taken")
      } catch {
        #expect(isRight(error), "\(error)")
      }
    }
  }

  @Test(
    "A wrong metadata device is recognised, with advice, and never advice to format it")
  func wrongThings() throws {
    func text(_ metadata: String, _ data: String) -> String {
      do throws(ToolError) {
        _ = try PoolInspection(metadata: metadata, data: data)
        return "taken"
      } catch {
        return error.description
      }
    }
    func image(_ mark: [UInt8], at offset: Int) throws -> String {
      var bytes = [UInt8](repeating: 0, count: 1 << 20)
      bytes.replaceSubrange(offset..<offset + mark.count, with: mark)
      // Not blank: a file of zeros is tested elsewhere.
      bytes[4095] = 1
      return try folder.file("thing", bytes: bytes)
    }
    for (mark, offset, words) in [
      (Array("<superblock uuid=\"\" time=\"0\">".utf8), 0, "thin_restore"),
      (Array("begin superblock: ".utf8), 0, "human_readable"), ([0x1f, 0x8b], 0, "gzip"),
      (Array("LABELONE".utf8), 512, "LVM"), ([0x55, 0xaa], 510, "partition table"),
      ([0x51, 0x46, 0x49, 0xfb], 0, "qcow2"), (Array("LUKS".utf8), 0, "LUKS"),
      ([0x77, 0xef, 9, 0x63, 0xaa, 0xa0, 0x37, 0xa5], 0, "packed"), ([1], 7, "data device"),
    ] as [([UInt8], Int, String)] {
      let path = try image(mark, at: offset)
      let said = text(path, data)
      #expect(said.hasPrefix(path) && said.contains(words), "\(words): \(said)")
      #expect(said.contains("next:") && !said.contains("pool format"), "\(said)")
    }
    // Metadata that begins at a partition of the device.
    let bytes = try contents(of: metadata)
    let whole = try folder.file("whole", bytes: [UInt8](repeating: 0, count: 1 << 20) + bytes)
    #expect(text(whole, data).contains("superblock of thin-pool metadata is at byte 1048576"))
    let wiped = try folder.file("wiped", bytes: [UInt8](repeating: 0, count: 4096) + bytes[4096...])
    #expect(text(wiped, data).contains("its superblock was overwritten"))
    for path in [whole, wiped] { #expect(!text(path, data).contains("pool format")) }
    // Swapped, whether the data begins with zeros or not.
    #expect(text(data, metadata).contains("the two are swapped"))
    #expect(!text(data, metadata).contains("pool format"))
    let filled = try folder.file("filled", bytes: Array(repeating: 7, count: 1 << 20))
    #expect(text(filled, metadata).contains("give --metadata \(metadata) --data \(filled)"))
  }

  @Test("A file of tables is a list of devices, one per line or all on one")
  func tables() throws {
    let text = """
      # comment
      d,,,rw,0 8 zero
      p,,3,rw,0 128 thin-pool m d 128 0;v,,,rw,0 8 thin p 1,8 8 error
      """
    for isReadOnly in [false, true] {
      let plan = try PoolPlan(
        tables: folder.file("tables", text: text), isReadOnly: isReadOnly)
      #expect(plan.devices.map(\.name) == ["d", "p", "v"])
      #expect(plan.devices.map(\.isReadOnly) == [isReadOnly, false, isReadOnly])
      #expect(plan.devices[2].table.count == 2)
    }
    let broken = try folder.file("broken", text: "d,,,rw")
    #expect(throws: ToolError.self) { try PoolPlan(tables: broken, isReadOnly: false) }
    let binary = try folder.file("binary", bytes: [0xff, 0xfe])
    #expect(throws: ToolError.self) { try PoolPlan(tables: binary, isReadOnly: false) }
  }

  @Test("A file of tables that cannot be read completely is an error, not a shorter list")
  func unreadableTables() throws {
    let large = try folder.zeros("large", size: (16 << 20) + 1)
    let cases: [(String, ToolError.Cause)] = [
      ("/none", .notFound(.input)), ("/", .notFound(.input)), (large, .refused),
    ]
    for (path, cause) in cases {
      do throws(ToolError) {
        _ = try PoolPlan(tables: path, isReadOnly: false)
        Issue.record("taken: \(path)")
      } catch {
        #expect(error.cause == cause, "\(error)")
      }
    }
  }
}
