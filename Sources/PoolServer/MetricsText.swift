import BlockServer
import DeviceMapper
import Targets

/// What is told of pools, volumes and clients, in the words of the kernel's status.
struct MetricsText {
  private(set) var text = ""

  init(_ mapper: UserspaceDeviceMapper, _ server: BlockServer) {
    var pools: [(name: String, words: [String])] = []
    var volumes: [(name: String, words: [String])] = []
    for device in mapper.all {
      for line in mapper.status(.number(device.number), .noFlush)?.lines ?? [] {
        let words = line.parameters.split(separator: " ").map { String($0) }
        if line.type == "thin-pool" { pools.append((device.name, words)) }
        if line.type == "thin" { volumes.append((device.name, words)) }
      }
    }
    addPools(pools)
    add("thin_mapped_sectors", "gauge", "Sectors mapped in a thin volume.")
    for (name, words) in volumes { value("thin_mapped_sectors", "volume", name, words.first) }
    addServer(server)
  }

  private mutating func addPools(_ pools: [(name: String, words: [String])]) {
    let fractions = [
      (1, "metadata_blocks", "Metadata blocks of 4 KiB"), (2, "data_blocks", "Data blocks"),
    ]
    for (index, metric, help) in fractions {
      for (part, which) in ["used", "total"].enumerated() {
        add("pool_\(metric)_\(which)", "gauge", "\(help), \(which).")
        for (name, words) in pools where words.count > index {
          let numbers = words[index].split(separator: "/")
          value(
            "pool_\(metric)_\(which)", "pool", name,
            numbers.count == 2 ? String(numbers[part]) : nil)
        }
      }
    }
    add("pool_writable", "gauge", "1 in mode rw, 0 in any other.")
    for (name, words) in pools {
      value("pool_writable", "pool", name, words.contains("rw") ? "1" : "0")
    }
    add("pool_needs_check", "gauge", "Whether the metadata has to be checked.")
    for (name, words) in pools {
      value("pool_needs_check", "pool", name, words.contains("needs_check") ? "1" : "0")
    }
  }

  private mutating func addServer(_ server: BlockServer) {
    let counters = server.counters
    for (metric, help, count) in [
      ("accepted", "Connections accepted.", counters.accepted),
      ("dropped", "Connections dropped by the server.", counters.dropped),
      ("reads", "Requests to read.", counters.reads),
      ("writes", "Requests to write.", counters.writes),
      ("flushes", "Requests to flush.", counters.flushes),
      ("discards", "Requests to discard.", counters.discards),
      ("zeroes", "Requests to write zeros.", counters.zeroes),
      ("read_bytes", "Bytes that clients asked to read.", counters.bytesRead),
      ("written_bytes", "Bytes that clients asked to write.", counters.bytesWritten),
      ("errors", "Requests that ended with an error.", counters.errors),
    ] {
      add("nbd_\(metric)_total", "counter", help)
      text += "dmthin_nbd_\(metric)_total \(count)\n"
    }
    add("nbd_connections", "gauge", "Connections.")
    text += "dmthin_nbd_connections \(server.connectionCount)\n"
    add("nbd_buffer_bytes", "gauge", "Bytes in buffers.")
    text += "dmthin_nbd_buffer_bytes \(server.bytesInUse)\n"
  }

  private mutating func add(_ metric: String, _ type: String, _ help: String) {
    text += "# HELP dmthin_\(metric) \(help)\n# TYPE dmthin_\(metric) \(type)\n"
  }

  private mutating func value(
    _ metric: String, _ label: String, _ name: String, _ number: String?
  ) {
    // What has failed says so instead of numbers.
    guard let number, UInt64(number) != nil else { return }
    let escaped = name.reduce(into: "") { result, character in
      if character == "\\" || character == "\"" { result.append("\\") }
      result += character == "\n" ? "\\n" : String(character)
    }
    text += "dmthin_\(metric){\(label)=\"\(escaped)\"} \(number)\n"
  }
}
