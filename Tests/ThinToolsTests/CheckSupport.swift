import BlockIO
import CDMThin
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// The report of a check of `device`.
func checked(_ device: any BlockDevice, _ change: (inout CheckOptions) -> Void = { _ in }) throws
  -> CheckReport
{
  var options = CheckOptions()
  change(&options)
  return try ThinCheck.run(device, options: options, progress: Progress())
}

/// What `thin_dump --repair` saves of `device`, and the messages that it prints.
func salvaged(_ device: any BlockDevice, _ change: (inout DumpOptions) -> Void = { _ in }) throws
  -> (xml: String, said: [String], pool: DumpedPool)
{
  var said: [String] = []
  let xml = try dumped(
    device,
    {
      $0.repair = true
      change(&$0)
    }, onLoss: { said.append($0) })
  return (xml, said, DumpedPool(xml: xml))
}

extension CheckReport {
  /// Whether there is a finding with this severity, text and block.
  func has(
    _ severity: Finding.Severity, _ text: String, block: UInt64? = nil
  ) -> Bool {
    findings.contains {
      $0.severity == severity && $0.message.contains(text)
        && (block == nil || $0.block?.rawValue == block)
    }
  }

  /// The findings, as text for failing tests.
  var text: String { findings.map { "\($0.severity): \($0.message)" }.joined(separator: "\n") }
}

/// A pool in memory, with the trees of its devices as found by a simple walk.
struct PoolUnderTest {
  struct Leaf {
    var block: UInt64
    /// The keys that the parents of the leaf leave for it.
    var range: Range<UInt64>
  }

  let device: MemoryDevice
  let catalogue: BlockCatalogue

  /// A pool written by the kernel.
  init(_ name: String) throws { try self.init(MemoryDevice(contentsOf: Pools.path(name))) }

  init(_ device: MemoryDevice) throws {
    self.device = device
    catalogue = try BlockCatalogue(device)
  }

  /// The same pool as a restore lays it out, without a gap between blocks in use.
  func restoredCopy() throws -> PoolUnderTest {
    let copy = MemoryDevice(byteCount: Int(device.byteCount))
    try restore(dumped(device), to: copy)
    copy.keep()
    return try PoolUnderTest(copy)
  }

  /// Roots of mapping trees by device.
  func roots(_ superblock: Superblock) -> [UInt64: UInt64] {
    var found: [UInt64: UInt64] = [:]
    walk(superblock.mappingRoot, 0..<(.max)) { leaf in
      for entry in device.nodeEntries(leaf.block).entries { found[entry.key] = entry.value }
    }
    return found
  }

  /// Leaves below a node, in order.
  func leaves(of root: UInt64) -> [Leaf] {
    var found: [Leaf] = []
    walk(root, 0..<(.max)) { found.append($0) }
    return found
  }

  /// Mappings of the tree at `root`.
  func mappings(of root: UInt64) -> [NodeEntry] {
    leaves(of: root).flatMap { device.nodeEntries($0.block).entries }
  }

  private func walk(_ block: UInt64, _ range: Range<UInt64>, _ body: (Leaf) -> Void) {
    let (isLeaf, entries) = device.nodeEntries(block)
    guard !isLeaf else { return body(Leaf(block: block, range: range)) }
    for (i, entry) in entries.enumerated() {
      let low = i == 0 ? range.lowerBound : entry.key
      let high = i + 1 < entries.count ? entries[i + 1].key : range.upperBound
      walk(entry.value, low..<high, body)
    }
  }

  /// The first block of a role.
  func block(_ role: BlockCatalogue.Role) throws -> UInt64 {
    try #require(catalogue.blocks[role]?.first)
  }
}

/// The dump of `device`.
func dumped(
  _ device: any BlockDevice, _ change: (inout DumpOptions) -> Void = { _ in },
  onLoss: (String) -> Void = { _ in }
) throws -> String {
  var options = DumpOptions()
  change(&options)
  let fd = dmthin_memory_file("dump")
  defer { close(fd) }
  try ThinDump.run(
    device, to: ByteSink(descriptor: fd, path: "memory"), options: options, progress: Progress(),
    onLoss: onLoss)
  let size = Int(lseek(fd, 0, SEEK_END))
  let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
    count = max(0, pread(fd, buffer.baseAddress, size, 0))
  }
  return String(decoding: bytes, as: UTF8.self)
}
