/// The possible content of a pool's volumes, now and after a power cut, derived from the requests
/// of clients and their results.
///
/// A sector of a volume is 64 times the same word. For each sector the model keeps the values that
/// it may have after a power cut, the latest last: the last durable one, and those written after
/// it.
final class PoolModel {
  struct Version {
    var value: UInt64
    /// Until a flush the sector may hold the former content of the block, any other words, or
    /// zeros.
    var isDiscard = false
    /// The sector was not written, but its block was: without zeroing of new blocks it may hold the
    /// former content of the data block.
    var isLeftOver = false
    /// The sector is unwritten since it was made or discarded.
    var isUnwritten = false
    /// The time at which it was acknowledged; nil until then, and if it failed.
    var acknowledged: Int?
  }
  enum Existence {
    case certain
    /// It is being made or deleted, or making it failed.
    case possible
  }
  struct Volume {
    var sectors: [[Version]]
    var existence = Existence.certain
    var hasOrigin: Bool
  }
  private struct Running {
    var request: ClientEvent.Request
    /// For a flush: writes acknowledged before this time become durable.
    var begun: Int
  }

  let sectorCount: Int
  /// Sectors per block if new blocks are not zeroed; otherwise nil.
  private let unzeroedBlockSectors: Int?
  /// Words of the external origin's sectors.
  private let origin: [UInt64]
  private(set) var volumes: [Int: Volume] = [:]
  private var running: [Int: Running] = [:]
  private var now = 1

  init(_ shape: PoolShape, origin: [UInt64]) {
    sectorCount = shape.sectorCount
    unzeroedBlockSectors = shape.zeroesBlocks ? nil : shape.sectorsPerBlock
    self.origin = origin
  }

  /// The value of an unwritten sector.
  private func start(_ volume: Volume, _ sector: Int) -> UInt64 {
    volume.hasOrigin && sector < origin.count ? origin[sector] : 0
  }

  func apply(_ event: ClientEvent) {
    now += 1
    switch event {
    case .begin(let number, let request):
      running[number] = Running(request: request, begun: now)
      begin(request)
    case .end(let number, let succeeded):
      guard let known = running.removeValue(forKey: number), succeeded else { return }
      if case .flush = known.request.kind {
        flushed(known.request.volume, 0..<sectorCount, since: known.begun)
      } else {
        acknowledge(known.request)
      }
    case .beginMessage(let message): begin(message)
    case .endMessage(let message, let succeeded): end(message, succeeded)
    }
  }

  private func begin(_ request: ClientEvent.Request) {
    guard let volume = volumes[request.volume] else { return }
    leaveOver(request, volume)
    for (index, sector) in request.sectors.enumerated() {
      let version: Version
      switch request.kind {
      case .write(let first): version = Version(value: first &+ UInt64(index))
      case .zero: version = Version(value: 0)
      case .discard:
        version = Version(value: start(volume, sector), isDiscard: true, isUnwritten: true)
      case .flush: return
      }
      volumes[request.volume]?.sectors[sector].append(version)
    }
  }

  /// Handles a write into a block that may be new: its unwritten sectors may hold former content,
  /// if there is no origin to copy.
  private func leaveOver(_ request: ClientEvent.Request, _ volume: Volume) {
    guard let unit = unzeroedBlockSectors, !request.sectors.isEmpty else { return }
    switch request.kind {
    case .write, .zero: break
    case .discard, .flush: return
    }
    let end = min(sectorCount, (request.sectors.upperBound + unit - 1) / unit * unit)
    for sector in request.sectors.lowerBound / unit * unit..<end {
      if volume.hasOrigin && sector < origin.count { continue }
      for index in volume.sectors[sector].indices
      where volume.sectors[sector][index].isUnwritten {
        volumes[request.volume]?.sectors[sector][index].isLeftOver = true
      }
    }
  }

  private func acknowledge(_ request: ClientEvent.Request) {
    for sector in request.sectors {
      guard let last = volumes[request.volume]?.sectors[sector].indices.last else { continue }
      volumes[request.volume]?.sectors[sector][last].acknowledged = now
    }
    if request.isDurable { flushed(request.volume, request.sectors, since: now) }
  }

  /// Drops the values older than the last one acknowledged by then, which is durable now.
  private func flushed(_ id: Int, _ sectors: Range<Int>, since then: Int) {
    guard var volume = volumes.removeValue(forKey: id) else { return }
    for sector in sectors {
      guard
        let kept = volume.sectors[sector].lastIndex(where: { ($0.acknowledged ?? .max) <= then })
      else { continue }
      volume.sectors[sector].removeFirst(kept)
      volume.sectors[sector][0].isDiscard = false
    }
    volumes[id] = volume
  }

  private func begin(_ message: ClientEvent.Message) {
    switch message {
    case .create(let id, let hasOrigin):
      var volume = Volume(sectors: [], existence: .possible, hasOrigin: hasOrigin)
      volume.sectors = (0..<sectorCount).map {
        [Version(value: start(volume, $0), isUnwritten: true, acknowledged: now)]
      }
      volumes[id] = volume
    case .snapshot(let id, let origin):
      guard var volume = volumes[origin] else { return }
      // Data is flushed before the commit that makes the snapshot.
      for sector in volume.sectors.indices {
        let last = volume.sectors[sector].lastIndex { $0.acknowledged != nil } ?? 0
        volume.sectors[sector].removeFirst(last)
        volume.sectors[sector][0].isDiscard = false
      }
      volume.existence = .possible
      volumes[id] = volume
    case .delete(let id): volumes[id]?.existence = .possible
    }
  }

  private func end(_ message: ClientEvent.Message, _ succeeded: Bool) {
    guard succeeded else { return }
    switch message {
    case .create(let id, _): volumes[id]?.existence = .certain
    case .snapshot(let id, let origin):
      volumes[id]?.existence = .certain
      flushed(origin, 0..<sectorCount, since: now)
    case .delete(let id): volumes[id] = nil
    }
  }

  // MARK: - Queries

  /// Whether a sector may read as this value if nothing was lost.
  func reads(_ id: Int, _ sector: Int, _ value: UInt64) -> Bool {
    guard let versions = volumes[id]?.sectors[sector] else { return false }
    let last = versions.lastIndex { $0.acknowledged != nil } ?? 0
    return versions[last...].contains { $0.value == value || $0.isLeftOver }
  }

  /// Whether a sector may read as this value after a power cut.
  func mayHold(_ id: Int, _ sector: Int, _ value: UInt64) -> Bool {
    guard let versions = volumes[id]?.sectors[sector] else { return false }
    return versions.contains {
      $0.value == value || $0.isLeftOver
        || $0.isDiscard && (value == TraceDisk.discarded || value == 0)
    }
  }

  /// The possible values of a sector, for reports.
  func describe(_ id: Int, _ sector: Int) -> String {
    (volumes[id]?.sectors[sector] ?? []).map {
      hex($0.value) + ($0.isDiscard ? "(discard)" : "") + ($0.isLeftOver ? "(anything)" : "")
        + ($0.acknowledged == nil ? "?" : "")
    }.joined(separator: " ")
  }
}

func hex(_ value: UInt64) -> String { String(value, radix: 16) }

/// The word that fills a sector of `bytes`; nil if its words differ.
func word(_ bytes: UnsafeRawBufferPointer, sector: Int) -> UInt64? {
  let first = bytes.loadUnaligned(fromByteOffset: sector * 512, as: UInt64.self)
  for at in stride(from: sector * 512 + 8, to: sector * 512 + 512, by: 8)
  where bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self) != first {
    return nil
  }
  return first
}
