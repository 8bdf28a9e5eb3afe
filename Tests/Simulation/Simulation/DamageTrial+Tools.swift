import BlockIO
import CDMThin
import Glibc
import ThinFormat
import ThinMetadata
import ThinTools

extension DamageTrial {
  /// Whatever these report about a damaged image, they must end and must not trap.
  func runOtherTools(_ device: MemoryDevice) {
    try? ThinDump.run(device, to: nowhere.sink, options: DumpOptions(), progress: Progress())
    var salvaging = DumpOptions()
    salvaging.repair = true
    salvaging.salvage.overrides.dataBlockSectors = 128
    try? ThinDump.run(device, to: nowhere.sink, options: salvaging, progress: Progress())
    var repairing = RepairOptions()
    repairing.salvage = SalvageOptions()
    repairing.salvage.overrides.dataBlockSectors = 128
    repairing.salvage.choice = .newest
    _ = try? ThinRepair.run(
      device, to: MemoryDevice(byteCount: Int(device.byteCount)), options: repairing)
    compareDevices(device)
    walkRescue(device)
    if hasSnapshot {
      _ = try? ThinPack.run(
        device, source: .metadataSnapshot, to: nowhere.sink, progress: Progress())
    }
    try? ThinRmap.run(device, options: RmapOptions(), progress: Progress()) { _, _ in }
    var listing = LsOptions()
    listing.countsExclusive = true
    listing.findsHighest = true
    _ = try? ThinLs.run(device, options: listing, progress: Progress())
    guard hasSnapshot else { return }
    var options = CheckOptions()
    options.metadataSnapshot = true
    _ = try? ThinCheck.run(device, options: options, progress: Progress())
  }

  /// Packs the image, damages one byte of the file in every second trial, and unpacks it. False where a block
  /// comes out otherwise than it went in.
  func packAndUnpack(_ device: MemoryDevice, _ random: inout SplitMix64) -> Bool {
    let descriptor = dmthin_memory_file("packed")
    defer { close(descriptor) }
    let sink = ByteSink(descriptor: descriptor, path: "packed")
    let file = OpenFile(adopting: descriptor, path: "packed")
    guard
      (try? ThinPack.run(device, source: .current, to: sink, progress: Progress())) != nil,
      (try? sink.flush()) != nil, let byteCount = try? file.byteCount()
    else { return true }
    let isDamaged = Bool.random(using: &random)
    if isDamaged {
      let byte = [UInt8.random(in: 0...255, using: &random)]
      let place = UInt64.random(in: 0..<byteCount, using: &random)
      try? byte.withUnsafeBytes { try file.write($0, at: place) }
    }
    var isSame = true
    let packed = try? PackedFile(file)
    let ended: Void? = try? packed?.forEachRun(progress: Progress()) { first, bytes in
      for index in 0..<bytes.count / Limits.blockBytes {
        guard let start = bytes.baseAddress,
          let expected = device.peek(first.rawValue + UInt64(index)).baseAddress
        else { continue }
        isSame =
          isSame && memcmp(start + index * Limits.blockBytes, expected, Limits.blockBytes) == 0
      }
    }
    return isDamaged || isSame && ended != nil
  }

  /// Both of the first devices, compared.
  private func compareDevices(_ device: MemoryDevice) {
    guard let roots = try? MetadataView(device, source: .current).deviceRoots(), roots.count > 1
    else { return }
    var options = DeltaOptions(left: .thin(roots[0].id), right: .thin(roots[1].id))
    options.listsDataBlocks = true
    try? ThinDelta.run(device, options: options, to: nowhere.sink, progress: Progress())
  }

  /// What an extraction of each device would read: extents one after the other.
  private func walkRescue(_ device: MemoryDevice) {
    var options = RescueOptions()
    options.salvage.overrides.dataBlockSectors = 128
    options.bytesMax = 4096
    guard let index = try? RescueIndex(device, options: options, progress: Progress()) else {
      return
    }
    for found in index.devices.prefix(16) {
      var layout = RescueLayout(index, found, dataByteCount: 1 << 30)
      var (place, left) = (UInt64(0), 1000)
      while place < layout.knownByteCount, left > 0,
        let extent = try? layout.extent(at: place, limit: layout.knownByteCount)
      {
        precondition(extent.offset == place && extent.byteCount > 0)
        place = extent.end
        left -= 1
      }
    }
  }
}
