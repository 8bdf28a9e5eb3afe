import BlockIO
import CDMThin
import Glibc
import PersistentData
import Simulation
import ThinFormat
import ThinMetadata
import ThinTools

/// Measures the engine on a device in memory, so that only the engine is measured: mappings
/// inserted per second, look-ups, also at the end of long chains of snapshots, snapshots of devices of
/// growing size, and a pool of 10,000 thin devices. Prints Markdown.
@main
enum EngineBenchMain {
  static func main() throws {
    dmthin_begin_program()
    let most =
      CommandLine.arguments.count > 1 ? Int(CommandLine.arguments[1]) ?? 1_000_000 : 1_000_000
    try inserts()
    try depths()
    try manyDevices()
    try growth(most)
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// An empty pool on a device in memory.
  private static func pool(metadataBlocks: Int, dataBlocks: UInt64) throws -> (
    pool: PoolMetadata, device: MemoryDevice
  ) {
    let device = MemoryDevice(byteCount: metadataBlocks * Limits.blockBytes)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: dataBlocks)
    try pool.commit()
    device.keep()
    return (pool, device)
  }

  /// Allocates and maps blocks, with a commit every 10,000.
  private static func map(
    _ pool: PoolMetadata, _ count: Int, _ place: (Int) -> (device: ThinID, block: VirtualBlock)
  ) throws {
    for i in 0..<count {
      let (device, block) = place(i)
      let data = try pool.allocateDataBlock()
      try pool.insert(device, block, dataBlock: data)
      if i % 10_000 == 9_999 { try pool.commit() }
    }
    try pool.commit()
  }

  private static func inserts() throws {
    print("| devices | order | mappings inserted/s | look-ups/s, warm |")
    print("|---|---|---|---|")
    for devices in [1, 100, 10_000] {
      for random in [false, true] {
        let count = 500_000
        let (pool, _) = try pool(metadataBlocks: 200_000, dataBlocks: UInt64(count))
        for id in 0..<devices {
          try pool.createThin(ThinID(UInt64(id)))
          if id % 1000 == 999 { try pool.commit() }
        }
        try pool.commit()
        var generator = SplitMix64(seed: 1)
        var order = Array(0..<count)
        if random { order.shuffle(using: &generator) }
        let place = { (i: Int) in
          (ThinID(UInt64(order[i] % devices)), VirtualBlock(UInt64(order[i] / devices)))
        }
        let start = now()
        try map(pool, count, place)
        let mapped = now()
        for i in 0..<count {
          let (device, block) = place(i)
          if try pool.lookup(device, block) == nil { print("mapping \(i) is lost") }
        }
        let end = now()
        print(
          "| \(devices) | \(random ? "random" : "sequential") | \(Int(Double(count) / (mapped - start))) "
            + "| \(Int(Double(count) / (end - mapped))) |")
      }
    }
  }

  /// Look-ups of random blocks of the last of a chain of snapshots, each of which has 100 blocks of its own.
  private static func depths() throws {
    print("\n| snapshots deep | look-ups/s, first | look-ups/s, warm |")
    print("|---|---|---|")
    for depth in [0, 1, 100, 1000] {
      let count = 500_000
      let (pool, device) = try pool(
        metadataBlocks: 200_000, dataBlocks: UInt64(count) + 1_000_000)
      try pool.createThin(0)
      try map(pool, count) { (0, VirtualBlock(UInt64($0))) }
      var generator = SplitMix64(seed: 1)
      func anyBlock() -> VirtualBlock {
        VirtualBlock(UInt64.random(in: 0..<UInt64(count), using: &generator))
      }
      for id in 0..<depth {
        let (origin, new) = (ThinID(UInt64(id)), ThinID(UInt64(id + 1)))
        try pool.createSnapshot(new, origin: origin)
        for _ in 0..<100 {
          try pool.insert(new, anyBlock(), dataBlock: try pool.allocateDataBlock())
        }
        try pool.commit()
      }
      let blocks = (0..<200_000).map { _ in anyBlock() }
      let opened = try PoolMetadata.open(device, cacheBlocksMax: 16384)
      func rate() throws -> Int {
        let start = now()
        for block in blocks where try opened.lookup(ThinID(UInt64(depth)), block) == nil {
          print("a mapping is lost")
        }
        return Int(Double(blocks.count) / (now() - start))
      }
      let first = try rate()
      print("| \(depth) | \(first) | \(try rate()) |")
    }
  }

  /// What becomes of a pool that has 10,000 thin devices with 50 mappings each.
  private static func manyDevices() throws {
    let (devices, mappings) = (10_000, 50)
    var (pool, device) = try pool(
      metadataBlocks: 100_000, dataBlocks: UInt64(devices * mappings) + 1000)
    print("\n| 10,000 thin devices | CPU, ms |")
    print("|---|---|")
    func row(_ what: String, _ times: Int = 1, _ work: () throws -> Void) rethrows {
      let start = now()
      try work()
      print("| \(what) | \(thousandths((now() - start) / Double(times) * 1e3)) |")
    }
    try row("making one", devices) {
      for id in 0..<devices {
        try pool.createThin(ThinID(UInt64(id)))
        if id % 1000 == 999 { try pool.commit() }
      }
    }
    try row("filling all") {
      try map(pool, devices * mappings) {
        (ThinID(UInt64($0 / mappings)), VirtualBlock(UInt64($0 % mappings)))
      }
    }
    try row("opening the pool") { pool = try PoolMetadata.open(device) }
    try row("a snapshot of one, and its commit", 100) {
      for id in 0..<100 {
        try pool.createSnapshot(ThinID(UInt64(devices + id)), origin: ThinID(UInt64(id * 97)))
        try pool.commit()
      }
    }
    try row("deleting one, and its commit", 100) {
      for id in 0..<100 {
        try pool.delete(ThinID(UInt64(devices + id)))
        try pool.commit()
      }
    }
    let output = try TextOutput(path: "/dev/null")
    try row("thin_check") {
      let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
      if !report.isClean { print("the check found something") }
    }
    try row("thin_ls") { _ = try ThinLs.run(device, options: LsOptions(), progress: Progress()) }
    try row("thin_dump") {
      try ThinDump.run(device, to: output.sink, options: DumpOptions(), progress: Progress())
    }
  }

  private static func growth(_ most: Int) throws {
    print(
      "\n| mappings | insert, us each | snapshot, us | delete of a snapshot, us | delete of all, s |"
    )
    print("|---|---|---|---|---|")
    var count = 100_000
    while count <= most {
      let (pool, _) = try pool(
        metadataBlocks: max(20_000, count / 100), dataBlocks: UInt64(count) + 1000)
      try pool.createThin(0)
      try pool.commit()
      var start = now()
      try map(pool, count) { (0, VirtualBlock(UInt64($0))) }
      let insert = now() - start
      start = now()
      for id in 1...100 {
        try pool.createSnapshot(ThinID(UInt64(id)), origin: 0)
        try pool.commit()
      }
      let snapshot = (now() - start) / 100
      start = now()
      for id in 1...100 {
        try pool.delete(ThinID(UInt64(id)))
        try pool.commit()
      }
      let delete = (now() - start) / 100
      start = now()
      try pool.delete(0)
      try pool.commit()
      print(
        "| \(count) | \(thousandths(insert / Double(count) * 1e6)) | \(Int(snapshot * 1e6)) "
          + "| \(Int(delete * 1e6)) | \(thousandths(now() - start)) |")
      count *= 10
    }
  }

  private static func thousandths(_ value: Double) -> String {
    let n = Int((value * 1000).rounded())
    let rest = String(n % 1000)
    return "\(n / 1000)." + String(repeating: "0", count: 3 - rest.count) + rest
  }
}
