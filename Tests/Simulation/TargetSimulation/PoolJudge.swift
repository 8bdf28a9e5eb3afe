import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import Simulation
import Targets
import ThinTools

/// Checks the disks of a pool: its metadata is clean, without leaks, every volume exists, and each
/// sector holds an allowed value.
struct PoolJudge {
  let ground: TrialGround
  let shape: PoolShape
  let origin: [UInt8]

  static func check(_ metadata: [UInt8]) throws -> CheckReport {
    let device = MemoryDevice(byteCount: metadata.count)
    try metadata.withUnsafeBytes { try device.write($0, at: 0) }
    return try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
  }

  /// - Parameter goesOn: whether the pool is also written to, deactivated and checked again.
  func judge(_ images: [[UInt8]], _ model: PoolModel, goesOn: Bool) throws {
    // The cut was before the pool was made.
    if model.volumes.isEmpty { return }
    let report = try Self.check(images[0])
    guard report.findings.isEmpty else {
      throw TrialFailure("metadata is not clean: \(report.findings.prefix(3))")
    }
    let disks = (images + [origin]).enumerated().map { number, bytes in
      TraceDisk(
        ground.loop, number: number, bytes: bytes, isPrompt: true, isReadOnly: number == 2)
    }
    let rig = PoolRig(ground, disks: disks, shape)
    var isClosed = false
    defer { if !isClosed { rig.close() } }
    try rig.makePool(shape.features)
    for (id, volume) in model.volumes.sorted(by: { $0.key < $1.key }) {
      do throws(TrialFailure) {
        try rig.activate(id, as: "thin\(id)", hasOrigin: volume.hasOrigin)
      } catch {
        if volume.existence == .certain { throw error }
        continue
      }
      try compare(rig, id, model)
    }
    guard goesOn else { return }
    try goOn(rig, model, isAskingForCheck: report.needsCheck)
    rig.close()
    isClosed = true
    let after = try Self.check(disks[0].bytes)
    guard after.findings.isEmpty else {
      throw TrialFailure("metadata is not clean later: \(after.findings.prefix(3))")
    }
  }

  private func compare(_ rig: PoolRig, _ id: Int, _ model: PoolModel) throws(TrialFailure) {
    // Pools that accept no changes read unmapped blocks beyond the end of the origin, which fails.
    let mayEnd = rig.isDegraded && model.volumes[id]?.hasOrigin == true
    let step = mayEnd ? shape.sectorsPerBlock : model.sectorCount
    for start in stride(from: 0, to: model.sectorCount, by: step) {
      let sectors = start..<(start + step)
      let outcome = try rig.start(.read, "thin\(id)", sectors)
      try rig.run("reading") { outcome.isDone }
      if outcome.error != 0 && mayEnd && sectors.upperBound > shape.originSectors { continue }
      guard outcome.error == 0 else {
        throw TrialFailure("volume \(id) cannot be read: \(outcome.error)")
      }
      let bytes = UnsafeRawBufferPointer(outcome.buffer.bytes)
      for sector in sectors {
        let found = word(bytes, sector: sector - start)
        guard let found, model.mayHold(id, sector, found) else {
          throw TrialFailure(
            "volume \(id) holds \(found.map(hex) ?? "a mixture") in sector \(sector), expected "
              + model.describe(id, sector))
        }
      }
    }
  }

  /// Writes to every volume and flushes it.
  private func goOn(_ rig: PoolRig, _ model: PoolModel, isAskingForCheck: Bool)
    throws(TrialFailure)
  {
    for id in model.volumes.keys.sorted() where rig.mapper.find(.name("thin\(id)")) != nil {
      let write = try rig.start(.write, "thin\(id)", 3..<140)
      let flush = try rig.start(.flush, "thin\(id)")
      try rig.run("writing") { write.isDone && flush.isDone }
      // Full pools and those that need a check accept no new data.
      let isRefused = [write.error, flush.error].contains { $0 != 0 && $0 != ENOSPC }
      if isRefused && !isAskingForCheck {
        throw TrialFailure("volume \(id) cannot be written: \(write.error), \(flush.error)")
      }
    }
  }
}
