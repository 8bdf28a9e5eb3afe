/// The possible content of disks after a power cut: everything flushed, and any part of the rest.
struct PowerCut {
  /// Which unflushed writes survive.
  enum Survivors: CaseIterable {
    case nothing, everything, sectors, blocks
  }
  private struct Write {
    var position: Int
    var offset: Int
    var bytes: [UInt8]
    var isCertain: Bool
  }
  private struct Disk {
    /// The content with all durable writes that no unflushed write precedes.
    var bytes: [UInt8]
    var size: Int
    var writes: [Write] = []
  }

  private var disks: [Disk]

  /// Disks with their content at the start of the trace.
  init(_ images: [[UInt8]]) { disks = images.map { Disk(bytes: $0, size: $0.count) } }

  /// Whether any write may be lost.
  var isUncertain: Bool { disks.contains { !$0.writes.isEmpty } }

  /// Applies the next event.
  mutating func apply(_ event: Trace.Event, at position: Int) {
    switch event {
    case .write(let disk, let offset, let bytes, let isDurable):
      disks[disk].writes.append(
        Write(position: position, offset: offset, bytes: bytes, isCertain: isDurable))
      settle(disk)
    case .flush(let disk, let before):
      for index in disks[disk].writes.indices where disks[disk].writes[index].position < before {
        disks[disk].writes[index].isCertain = true
      }
      settle(disk)
    case .resize(let disk, let byteCount): disks[disk].size = byteCount
    case .client: break
    }
  }

  /// Moves durable writes that no unflushed write precedes into the image.
  private mutating func settle(_ disk: Int) {
    let count = disks[disk].writes.firstIndex { !$0.isCertain } ?? disks[disk].writes.count
    for write in disks[disk].writes.prefix(count) {
      copy(write.bytes[...], into: &disks[disk].bytes, at: write.offset)
    }
    disks[disk].writes.removeFirst(count)
  }

  /// A possible content of each disk.
  func images(_ survivors: Survivors, _ random: inout some RandomNumberGenerator) -> [[UInt8]] {
    disks.map { disk in
      var bytes = disk.bytes
      for write in disk.writes {
        if write.isCertain || survivors == .everything {
          copy(write.bytes[...], into: &bytes, at: write.offset)
          continue
        }
        guard survivors != .nothing else { continue }
        let unit = survivors == .sectors ? 512 : 4096
        for at in stride(from: 0, to: write.bytes.count, by: unit)
        where Bool.random(using: &random) {
          let end = min(at + unit, write.bytes.count)
          copy(write.bytes[at..<end], into: &bytes, at: write.offset + at)
        }
      }
      return Array(bytes.prefix(disk.size))
    }
  }
}
