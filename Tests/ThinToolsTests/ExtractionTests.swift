import BlockIO
import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat

@testable import ThinTools

/// An extraction: the right bytes, bad sectors read around, and continued after any stop.
@Suite struct ExtractionTests {
  /// A device of a pool, with the data device that it is on.
  private struct Scene {
    let pool: RescuedPool
    let index: RescueIndex
    let device: RescueDevice
    let data: NamedSectors
    let byteCount: UInt64
    var layout: RescueLayout

    init(seed: UInt64, window: UInt64 = 40) throws {
      pool = try RescuedPool(seed: seed, window: window)
      index = try RescueIndex(pool.device, progress: Progress())
      device = try #require(index.devices.max { $0.mappedBlocks < $1.mappedBlocks })
      data = NamedSectors(byteCount: pool.dataByteCount)
      // A volume ends anywhere.
      byteCount = (device.endBlock.rawValue + 2) * index.blockBytes - 1536
      layout = RescueLayout(index, device, dataByteCount: data.byteCount)
    }

    var expected: [UInt8] { pool.bytes(of: device.id.rawValue, byteCount) }

    /// The first byte of a bad sector of the image, for a sector of the data device.
    func place(ofSector sector: UInt64) throws -> UInt64? {
      for extent in try extents(layout, byteCount) {
        guard case .data(let byte) = extent.kind, byte <= sector * 512,
          sector * 512 < byte + extent.byteCount
        else { continue }
        return extent.offset + sector * 512 - byte
      }
      return nil
    }

    func extraction(
      _ output: FragileImage, _ map: RescueMap? = nil,
      save: @escaping (RescueMap) throws(ToolError) -> Void = { _ in }
    ) -> Extraction {
      let extraction = Extraction(
        layout, from: ExtractionSource(data, sectorBytes: 512), to: output,
        map: map ?? RescueMap(byteCount: byteCount), save: save)
      extraction.mapInterval = 65536
      return extraction
    }

    /// Sectors of the data device that belong to the device.
    func sectors() throws -> [UInt64] {
      try extents(layout, byteCount).flatMap { extent -> [UInt64] in
        guard case .data(let byte) = extent.kind else { return [] }
        return Array(byte / 512..<(byte + extent.byteCount) / 512)
      }
    }
  }

  @Test("an image has the bytes of the device, and zeros where nothing is mapped")
  func wholeDevice() throws {
    let first = seed()
    for n in 0..<UInt64(5) {
      let scene = try Scene(seed: first &+ n)
      for filled in [0, 0xee] as [UInt8] {
        let output = FragileImage(byteCount: scene.byteCount, filled: filled)
        let extraction = scene.extraction(output)
        try extraction.run()
        #expect(output.bytes == scene.expected, "seed \(first &+ n)")
        #expect(extraction.map.isComplete && extraction.map.count == 1)
      }
      let plan = try ExtractionPlan(scene.layout, byteCount: scene.byteCount)
      #expect(plan.mappedBytes == UInt64(try scene.sectors().count) * 512)
    }
  }

  @Test("only bad sectors are missing, they are marked, and nothing else is read twice for them")
  func badSectors() throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<10 {
      let scene = try Scene(seed: random.next() % 100_000)
      let sectors = try scene.sectors()
      var expected = scene.expected
      var marked = RescueMap(byteCount: scene.byteCount)
      marked.set(0..<scene.byteCount, .finished)
      for _ in 0..<Int.random(in: 1...12, using: &random) {
        let sector = try #require(sectors.randomElement(using: &random))
        scene.data.bad[sector] = .max
        let place = try #require(try scene.place(ofSector: sector))
        for i in place..<(place + 512) { expected[Int(i)] = 0 }
        marked.set(place..<(place + 512), .bad)
      }
      let output = FragileImage(byteCount: scene.byteCount, filled: 0xee)
      let extraction = scene.extraction(output)
      try extraction.run(retries: 1)
      #expect(output.bytes == expected)
      var (found, wanted) = (extraction.map, marked)
      (found.position, wanted.position) = (0, 0)
      (found.phase, wanted.phase) = (.finished, .finished)
      #expect(found == wanted)
      #expect(try extraction.leftBytes() == marked.bytes(.bad))
    }
  }

  @Test(
    "over an external origin, its bytes show where nothing is mapped, bad sectors of either apart")
  func externalOrigin() throws {
    var random = SplitMix64(seed: seed())
    for n in 0..<10 {
      let scene = try Scene(seed: random.next() % 100_000)
      // Shorter or longer than the volume; other sectors than the data device has at these places.
      let origin = NamedSectors(
        byteCount: UInt64.random(in: 1...scene.byteCount / 256, using: &random) * 512)
      origin.firstSector = 1 << 30
      let layout = RescueLayout(
        scene.index, scene.device, dataByteCount: scene.data.byteCount,
        originByteCount: origin.byteCount)
      var expected = scene.expected
      var bad = RescueMap(byteCount: scene.byteCount)
      var originBytes: UInt64 = 0
      let block = Int(scene.index.blockBytes)
      let mapped = scene.pool.truth.devices[scene.device.id.rawValue]?.mappings ?? [:]
      for sector in 0..<min(origin.byteCount, scene.byteCount) / 512 {
        let place = Int(sector) * 512
        guard mapped[UInt64(place / block)] == nil else { continue }
        originBytes += 512
        let isBad = n > 4 && Int.random(in: 0..<100, using: &random) == 0
        if isBad {
          origin.bad[sector] = .max
          bad.set(sector * 512..<(sector + 1) * 512, .bad)
        }
        expected.withUnsafeMutableBytes { bytes in
          let part = UnsafeMutableRawBufferPointer(rebasing: bytes[place..<place + 512])
          if isBad { part.initializeMemory(as: UInt8.self, repeating: 0) }
          if !isBad { NamedSectors.fill(part, origin.firstSector + sector) }
        }
      }
      if n > 4, let sector = try scene.sectors().randomElement(using: &random) {
        scene.data.bad[sector] = .max
        let place = try #require(try scene.place(ofSector: sector))
        for i in place..<(place + 512) { expected[Int(i)] = 0 }
        bad.set(place..<(place + 512), .bad)
      }
      #expect(
        try ExtractionPlan(layout, byteCount: scene.byteCount).originBytes == originBytes)
      let output = FragileImage(byteCount: scene.byteCount, filled: 0xee)
      let extraction = Extraction(
        layout, from: ExtractionSource(scene.data, sectorBytes: 512),
        origin: ExtractionSource(origin, sectorBytes: 512), to: output,
        map: RescueMap(byteCount: scene.byteCount), save: { _ in })
      try extraction.run(retries: 1)
      #expect(output.bytes == expected)
      #expect(extraction.map.bytes(.bad) == bad.bytes(.bad))
      bad.forEach { range, status in
        if status == .bad { #expect(extraction.map.next(from: range.lowerBound, [.bad]) == range) }
      }
      #expect(try extraction.leftBytes() == bad.bytes(.bad))
    }
  }

  @Test("sectors that can be read at last are in the image, by retries or by another run")
  func recoveringSectors() throws {
    let scene = try Scene(seed: 3)
    let sectors = try scene.sectors()
    func begin() -> [UInt64] {
      let chosen = stride(from: 5, to: sectors.count, by: 97).map { sectors[$0] }
      // Once in a long piece, then in halves, then alone.
      for sector in chosen { scene.data.bad[sector] = 14 }
      return chosen
    }
    let count = begin().count
    var output = FragileImage(byteCount: scene.byteCount)
    var extraction = scene.extraction(output)
    try extraction.run()
    let map = extraction.map
    #expect(map.bytes(.bad) > 0 && map.bytes(.bad) <= UInt64(count) * 512)
    scene.data.bad = [:]
    let readBefore = output.written.count
    extraction = scene.extraction(output, map)
    try extraction.run()
    #expect(output.bytes == scene.expected && extraction.map.isComplete)
    #expect(extraction.copiedBytes == map.bytes(.bad), "only what was missing is read")
    #expect(output.written.count > readBefore)

    _ = begin()
    output = FragileImage(byteCount: scene.byteCount)
    extraction = scene.extraction(output)
    try extraction.run(retries: 20)
    #expect(output.bytes == scene.expected && extraction.map.isComplete)
  }

  @Test("an error that is not of bad sectors ends the extraction, with the map of what is there")
  func otherErrors() throws {
    let scene = try Scene(seed: 4)
    let sectors = try scene.sectors()
    scene.data.bad[sectors[sectors.count / 2]] = .max
    scene.data.code = ENXIO
    let output = FragileImage(byteCount: scene.byteCount)
    var saved: RescueMap?
    let extraction = scene.extraction(output) { saved = $0 }
    let error = #expect(throws: ToolError.self) { try extraction.run() }
    #expect(error?.message.contains("cannot read data") == true)
    let map = try #require(saved)
    scene.data.bad = [:]
    let next = scene.extraction(output, map)
    try next.run()
    #expect(output.bytes == scene.expected && next.map.isComplete)
  }

  @Test("stopped at every call, it is continued from the last map, and has the right bytes")
  func everyStop() throws {
    var random = SplitMix64(seed: seed())
    for round in 0..<3 {
      let scene = try Scene(seed: random.next() % 100_000, window: 12)
      let sectors = try scene.sectors()
      var expected = scene.expected
      let filled: UInt8 = round == 0 ? 0 : 0xee
      for _ in 0..<(3 * round) {
        let sector = try #require(sectors.randomElement(using: &random))
        scene.data.bad[sector] = .max
        let place = try #require(try scene.place(ofSector: sector))
        for i in place..<(place + 512) { expected[Int(i)] = 0 }
      }
      let whole = FragileImage(byteCount: scene.byteCount, filled: filled)
      func run(_ output: FragileImage, _ saved: inout RescueMap?) throws {
        var last = saved
        defer { saved = last }
        let extraction = scene.extraction(output, saved) { map throws(ToolError) in
          do throws(BlockIOError) { try output.call() } catch { throw ToolError(error) }
          last = map
        }
        try extraction.run(retries: 1)
      }
      var saved: RescueMap?
      try run(whole, &saved)
      #expect(whole.bytes == expected)
      #expect(whole.calls > 10)
      for stop in 0..<whole.calls {
        let output = FragileImage(byteCount: scene.byteCount, filled: filled)
        var saved: RescueMap?
        output.callsLeft = stop
        #expect(throws: ToolError.self) { try run(output, &saved) }
        output.stop(&random)
        // What the map says to be there is there, whatever else is.
        saved?.forEach { range, status in
          guard status == .finished else { return }
          let bytes = Int(range.lowerBound)..<Int(range.upperBound)
          let isThere = output.bytes.withUnsafeBytes { found in
            expected.withUnsafeBytes { wanted in
              guard let a = found.baseAddress, let b = wanted.baseAddress
              else { return bytes.isEmpty }
              return memcmp(a + bytes.lowerBound, b + bytes.lowerBound, bytes.count) == 0
            }
          }
          #expect(isThere, "stop \(stop)")
        }
        try run(output, &saved)
        #expect(output.bytes == expected, "stop \(stop)")
      }
    }
  }

  @Test("parts of sectors are right where the data device has larger ones")
  func largeSectors() throws {
    let scene = try Scene(seed: 9)
    let output = FragileImage(byteCount: scene.byteCount)
    var map = RescueMap(byteCount: scene.byteCount)
    // As a map of another program may have it.
    var offset: UInt64 = 512
    while offset + 3072 < scene.byteCount {
      map.set(offset..<(offset + 1024), offset % 7 == 0 ? .unscraped : .untrimmed)
      offset += 7168
    }
    let extraction = Extraction(
      scene.layout, from: ExtractionSource(AlignedOnly(scene.data), sectorBytes: 4096), to: output,
      map: map, save: { _ in })
    try extraction.run()
    #expect(output.bytes == scene.expected && extraction.map.isComplete)
  }

  @Test("the digest of a plan tells devices and sizes apart, and is the same for the same places")
  func digests() throws {
    let scene = try Scene(seed: 12, window: 100)
    var digests: Set<UInt64> = []
    for device in scene.index.devices where device.mappedBlocks > 0 {
      let layout = RescueLayout(scene.index, device, dataByteCount: scene.data.byteCount)
      digests.insert(try ExtractionPlan(layout, byteCount: scene.byteCount).digest)
    }
    let distinct = Set(
      scene.index.devices.compactMap {
        scene.pool.truth.devices[$0.id.rawValue]?.mappings.mapValues(\.dataBlock)
      }
    )
    .filter { !$0.isEmpty }
    #expect(digests.count == distinct.count)
    var small = RescueOptions()
    small.bytesMax = 100
    let spilled = try RescueIndex(
      scene.pool.device,
      options: {
        var o = RescueOptions(); o.bytesMax = 100; return o
      }(),
      progress: Progress())
    let device = try #require(spilled[scene.device.id])
    let other = RescueLayout(spilled, device, dataByteCount: scene.data.byteCount)
    #expect(
      try ExtractionPlan(other, byteCount: scene.byteCount)
        == ExtractionPlan(scene.layout, byteCount: scene.byteCount))
  }
}

/// Refuses reads that are not whole sectors of 4096 bytes.
private final class AlignedOnly: BlockDevice {
  private let inner: any BlockDevice
  let path = "data"
  var byteCount: UInt64 { inner.byteCount }
  var descriptor: Int32? { nil }

  init(_ inner: any BlockDevice) { self.inner = inner }

  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(BlockIOError) {
    guard offset % 4096 == 0, buffer.count % 4096 == 0 else {
      throw BlockIOError(.read, path: path, offset: offset, code: EINVAL)
    }
    try inner.read(into: buffer, at: offset)
  }

  func write(_ buffer: UnsafeRawBufferPointer, at offset: UInt64) {}
  func flush() {}
}
