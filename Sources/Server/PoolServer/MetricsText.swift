import BlockServer
import DataPath
import DeviceMapper
import Targets

/// Pools, volumes and clients in Prometheus' text format. Sizes are in bytes.
///
/// No pool is committed for it: the numbers are those at the time of reading. There may be
/// thousands of volumes, so the text is made a piece at a time.
struct MetricsText {
  private typealias Sample = (labels: [(String, String)], value: UInt64)
  private typealias Pool = (device: MappedDevice, target: ThinPoolTarget, status: ThinPoolStatus)
  private typealias Thin = (device: MappedDevice, id: String, sectors: UInt64, status: ThinStatus)
  private typealias Family = (name: String, type: String, help: String, samples: [Sample])

  /// Devices read, and lines written, per step.
  private static let devicesPerStep = 64
  private static let linesPerStep = 512
  /// The most volumes, and the most bytes of text. The rest is left out, and a metric tells that.
  /// Pools and the server itself come first.
  private static let volumesMax = 10_000
  private static let bytesMax = 2 << 20

  private let mapper: UserspaceDeviceMapper
  private let server: BlockServer
  private let exports: ExportList
  /// Devices that were not read yet.
  private var devices: ArraySlice<MappedDevice>
  private var pools: [Pool] = []
  private var thins: [Thin] = []
  /// The metrics to write, once all devices have been read.
  private var families: [Family]?
  private var family = 0
  private var line = 0
  private(set) var text = ""
  private var isCut = false

  /// Starts a text for the present devices.
  init(_ mapper: UserspaceDeviceMapper, _ server: BlockServer, _ exports: ExportList) {
    self.mapper = mapper
    self.server = server
    self.exports = exports
    // By number, which sorts faster than names.
    var found: [MappedDevice] = []
    mapper.forEachDevice { found.append($0) }
    devices = found.sorted { $0.number.minor < $1.number.minor }[...]
  }

  /// Makes another piece, in a fraction of a millisecond. Returns false when `text` is complete.
  mutating func step() -> Bool {
    if !devices.isEmpty {
      for device in devices.prefix(Self.devicesPerStep) { look(at: device) }
      devices = devices.dropFirst(Self.devicesPerStep)
      return true
    }
    if families == nil {
      families = []
      addPools(pools)
      addServer(server)
      addThins(thins)
      isCut = isCut || exports.exports.count > Self.volumesMax
      add(
        "volume_clients", "gauge", "Connections to a volume.",
        exports.exports.prefix(Self.volumesMax).map {
          ([("volume", $0.name)], UInt64($0.connections))
        })
      return true
    }
    return write()
  }

  private mutating func look(at device: MappedDevice) {
    let reference = DeviceReference.number(device.number)
    let table = mapper.table(reference, [])?.lines ?? []
    let status = mapper.status(reference, .noFlush)?.lines ?? []
    for (line, state) in zip(table, status) {
      let words = KernelText.words(line.parameters)
      if line.type == "thin-pool", let target = try? ThinPoolTarget(words),
        let status = ThinPoolStatus(state.parameters)
      {
        pools.append((device, target, status))
      } else if line.type == "thin", words.count > 1, let status = ThinStatus(state.parameters) {
        if thins.count < Self.volumesMax {
          thins.append((device, words[1], line.length, status))
        } else {
          isCut = true
        }
      }
    }
  }

  /// Writes some lines. Returns false when there are no more.
  private mutating func write() -> Bool {
    guard let families, family < families.count else {
      if isCut {
        let name = "dmthin_metrics_cut"
        text += "# HELP \(name) 1 if there are more volumes than are listed.\n"
        text += "# TYPE \(name) gauge\n\(name) 1\n"
      }
      return false
    }
    let (name, type, help, samples) = families[family]
    if line == 0 { text += "# HELP dmthin_\(name) \(help)\n# TYPE dmthin_\(name) \(type)\n" }
    let end = min(samples.count, line + Self.linesPerStep)
    for (labels, value) in samples[line..<end] {
      guard text.utf8.count < Self.bytesMax else {
        isCut = true
        family = families.count
        return true
      }
      let list = labels.map { "\($0.0)=\"\(Self.escaped($0.1))\"" }.joined(separator: ",")
      text += "dmthin_\(name)\(list.isEmpty ? "" : "{\(list)}") \(value)\n"
    }
    line = end
    if line == samples.count { (family, line) = (family + 1, 0) }
    return true
  }

  private mutating func addPools(_ pools: [Pool]) {
    add(
      "pool_failed", "gauge", "1 if a pool has failed and accepts no requests.",
      pools.map {
        if case .working = $0.status { return (label($0.device), 0) }
        return (label($0.device), 1)
      })
    add(
      "pool_events_total", "counter", "Events raised by a pool.",
      pools.map { (label($0.device), UInt64($0.device.eventNumber)) })
    // A failed pool has no numbers.
    var working:
      [(labels: [(String, String)], block: UInt64, low: UInt64, ThinPoolStatus.Details)] =
        []
    for (device, target, status) in pools {
      if case .working(let details) = status {
        working.append((label(device), target.blockSectors * 512, target.lowWaterBlocks, details))
      }
    }
    add(
      "pool_data_bytes", "gauge", "Size of a pool's data.",
      working.map { ($0.labels, $0.3.data.total &* $0.block) })
    add(
      "pool_data_used_bytes", "gauge", "Data in use.",
      working.map { ($0.labels, $0.3.data.used &* $0.block) })
    add(
      "pool_data_low_water_bytes", "gauge", "Free data at which an event is raised.",
      working.map { ($0.labels, $0.low &* $0.block) })
    add(
      "pool_metadata_bytes", "gauge", "Size of a pool's metadata.",
      working.map { ($0.labels, $0.3.metadata.total &* 4096) })
    add(
      "pool_metadata_used_bytes", "gauge", "Metadata in use.",
      working.map { ($0.labels, $0.3.metadata.used &* 4096) })
    add(
      "pool_transaction_id", "gauge", "Transaction id of a pool.",
      working.map { ($0.labels, $0.3.transactionID) })
    add(
      "pool_needs_check", "gauge", "1 if a pool's metadata needs a check.",
      working.map { ($0.labels, $0.3.needsCheck ? 1 : 0) })
    add(
      "pool_mode", "gauge", "1 for the present mode of a pool.",
      working.map { ($0.labels + [("mode", "\($0.3.mode.rawValue)")], 1) })
  }

  private mutating func addThins(_ thins: [Thin]) {
    add(
      "volume_bytes", "gauge", "Size of a thin volume.",
      thins.map { ([("volume", $0.device.name), ("id", $0.id)], $0.sectors &* 512) })
    var mapped: [Sample] = []
    for (device, id, _, status) in thins {
      if case .working(let sectors, _) = status {
        mapped.append(([("volume", device.name), ("id", id)], sectors &* 512))
      }
    }
    add("volume_mapped_bytes", "gauge", "Mapped bytes of a thin volume, shared or not.", mapped)
  }

  private mutating func addServer(_ server: BlockServer) {
    let counters = server.counters
    for (metric, help, count) in [
      ("connections_accepted", "Connections accepted.", counters.accepted),
      ("connections_dropped", "Connections closed by the server.", counters.dropped),
      ("reads", "Requests to read.", counters.reads),
      ("writes", "Requests to write.", counters.writes),
      ("flushes", "Requests to flush.", counters.flushes),
      ("discards", "Requests to discard.", counters.discards),
      ("zeroes", "Requests to write zeros.", counters.zeroes),
      ("read_bytes", "Bytes that clients asked to read.", counters.bytesRead),
      ("written_bytes", "Bytes that clients asked to write.", counters.bytesWritten),
      ("errors", "Requests that ended with an error.", counters.errors),
    ] {
      add("nbd_\(metric)_total", "counter", help, [([], count)])
    }
    add(
      "nbd_connections", "gauge", "Open connections.",
      [([], UInt64(server.connectionCount))])
    add(
      "nbd_buffer_bytes", "gauge", "Bytes in buffers for clients' requests.",
      [([], UInt64(clamping: server.bytesInUse))])
  }

  private func label(_ device: MappedDevice) -> [(String, String)] { [("pool", device.name)] }

  private mutating func add(_ metric: String, _ type: String, _ help: String, _ samples: [Sample]) {
    if !samples.isEmpty { families?.append((metric, type, help, samples)) }
  }

  /// Escapes a label's value as the format requires. Other control characters do not occur in
  /// names.
  private static func escaped(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      if character == "\\" || character == "\"" { result.append("\\") }
      if character == "\n" {
        result += "\\n"
      } else {
        result +=
          character.unicodeScalars.allSatisfy { $0.value >= 32 && $0.value != 127 }
          ? String(character) : "?"
      }
    }
  }
}
