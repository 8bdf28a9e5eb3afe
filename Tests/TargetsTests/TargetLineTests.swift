import DeviceMapper
import Glibc
import Simulation
import Targets
import Testing

/// What the kernel prints, by type; the rig's test compares with the running kernel. It is outside
/// of the suite because the suite's macros need it before the suite's type exists.
private enum KernelPrints {
  static let tables = [
    "0 16 linear 98:16 8", "8 16 linear 98:16 18446744073709551615", "0 16 zero ", "0 16 error ",
    "0 32 striped 2 8 98:16 0 98:0 16", "0 4294967280 striped 1 4294967280 98:16 0",
    "0 65536 thin-pool 254:0 98:16 128 32768 0 ",
    "0 65536 thin-pool 254:0 98:16 2097152 18446744073709551615 1 read_only ",
    "0 65536 thin-pool 254:0 98:16 128 0 4 skip_block_zeroing ignore_discard no_discard_passdown "
      + "error_if_no_space ",
    "0 8192 thin 254:1 0", "0 8192 thin 254:1 16777215", "0 8192 thin 254:1 0 254:3",
    "0 8192 snapshot 254:0 254:1 P 8", "0 8192 snapshot 254:0 254:1 N 16",
    "0 8192 snapshot 254:0 254:1 PO 8 1 discard_zeroes_cow",
    "0 8192 snapshot 254:0 254:1 P 8 2 discard_zeroes_cow discard_passdown_origin",
    "0 8192 snapshot-merge 254:0 254:1 P 16", "0 8192 snapshot-origin 254:0",
    "0 8192 crypt aes-xts-plain64 0011aabb 0 98:16 4096",
    "0 8192 crypt aes-cbc-essiv:sha256 - 18446744073709551615 98:16 0 1 allow_discards",
    "0 8192 crypt capi:xts(aes)-plain64 :32:logon:cryptsetup:name 18446744073709551608 98:16 0 8 "
      + "allow_discards same_cpu_crypt submit_from_crypt_cpus no_read_workqueue "
      + "no_write_workqueue integrity:28:aead sector_size:4096 iv_large_sectors",
  ]
}

/// Parses a line of any type that has a grammar; nil for other types.
func understood(_ line: TableLine) throws(TargetError) -> (any TargetGrammar)? {
  switch line.type {
  case SnapshotTarget.type, SnapshotTarget.mergeType: try SnapshotTarget(line)
  case SnapshotOriginTarget.type: try SnapshotOriginTarget(line)
  case CryptTarget.type: try CryptTarget(line)
  default: try TargetType.named(line.type)?.parse(line)
  }
}

extension HostileText {
  /// Every line is either accepted or refused with a message. An accepted line prints as it was.
  mutating func expectSense(_ count: Int) {
    var taken: [String: Int] = [:]
    for _ in 0..<count {
      let made = self.line()
      let line = TableLine(
        start: 0, length: made.length, type: made.type, parameters: made.parameters)
      let target: (any TargetGrammar)?
      do throws(TargetError) {
        target = try understood(line)
      } catch {
        #expect(!error.message.isEmpty && error.code > 0, "\(line)")
        continue
      }
      taken[line.type, default: 0] += 1
      var printed = line
      printed.parameters = target?.parameters ?? "no grammar"
      let again = try? understood(printed)
      #expect(again.map { AnyHashable($0) } == target.map { AnyHashable($0) }, "\(line)")
    }
    // Enough lines of each type were accepted for the test to mean something.
    for line in sound {
      let type = String(line.prefix { $0 != " " })
      #expect(taken[type, default: 0] > 5, "\(type)")
    }
  }
}

@Suite("Lines of tables")
struct TargetLineTests {
  @Test("a line of a table is printed as the kernel prints it", arguments: KernelPrints.tables)
  func tables(_ text: String) throws {
    let line = try #require(try TableText.parse(text).first)
    let target = try #require(try understood(line))
    #expect(target.parameters == line.parameters)
  }

  @Test("every type has a unique name")
  func names() {
    #expect(Set(TargetType.all.map(\.name)).count == TargetType.all.count)
    for type in TargetType.all { #expect(TargetType.named(type.name) === type) }
    #expect(TargetType.named("nosuch") == nil)
  }

  @Test("any words make a target or are refused, and a target prints its line unchanged")
  func hostile() {
    var lines = HostileText(
      [
        "linear 98:16 8", "striped 2 8 98:16 0 98:0 16", "zero", "error",
        "thin-pool 254:0 98:16 128 32768 2 skip_block_zeroing read_only", "thin 254:1 7 254:3",
        "snapshot 254:0 254:1 PO 8 1 discard_zeroes_cow", "snapshot-merge 254:0 254:1 P 16",
        "snapshot-origin 254:0",
        "crypt aes-xts-plain64 :32:logon:k 8 98:16 0 2 sector_size:4096 integrity:28:aead",
      ],
      words: [
        "P", "PO", "N", "skip_block_zeroing", "discard_zeroes_cow", "allow_discards",
        "sector_size:4096", "sector_size:", "integrity:1:none",
      ], seed: 20_261_121)
    lines.expectSense(15_000)
  }

  @Test("a table counts as one user of a device, however often its lines name it")
  func openCounts() throws {
    let world = try World()
    let disk = try world.add("disk", byteCount: 1 << 20)
    try world.create("below", [world.line(2048, "linear", "\(disk) 0")])
    func openCount() throws -> Int32? { try world.dm.info(.name("below"), [])?.openCount }
    let twice = world.line(1024, "striped", "2 8 below 0 below 1024")
    try world.create("s", [twice, world.line(512, "linear", "below 512", start: 1024)])
    #expect(try openCount() == 1)
    try world.dm.load(.name("s"), [twice], readOnly: false)
    #expect(try openCount() == 2)
    try world.resume("s")
    #expect(try openCount() == 1)
    // The table is refused after all its targets were made.
    #expect(throws: DeviceMapperError.self) {
      try world.create("t", [twice, world.line(8, "linear", "below 2048", start: 1024)])
    }
    #expect(try openCount() == 1)
    try world.dm.remove(.name("below"), deferred: true, retry: false)
    try world.dm.remove(.name("s"), deferred: false, retry: false)
    #expect(try world.dm.list().isEmpty)
  }

  @Test(
    "a word that is neither a path nor a device is ENXIO if the kernel takes it for a number, else ENODEV"
  )
  func missingDevices() throws {
    let world = try World()
    for (text, code) in [("8", ENXIO), ("fe", ENXIO), ("0", ENODEV), ("x", ENODEV), ("+8", ENODEV)]
    {
      let error = #expect(throws: DeviceMapperError.self) {
        try world.create("d", [world.line(8, "linear", "\(text) 0")])
      }
      #expect(error?.code == code, "\(text)")
    }
  }
}
