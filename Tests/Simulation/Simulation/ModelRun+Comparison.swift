import BlockIO
import PersistentData
import ThinFormat
import ThinMetadata
import ThinTools

// Reads the committed state with the reading tools, which share no code with the engine, and
// compares it.
extension ModelRun {
  /// A short summary, for comparing states quickly.
  struct Summary: Equatable {
    var time: UInt32
    var transactionID: UInt64
    var dataBlockCount: UInt64
    var isHeld: Bool
    var devices: [ThinID: DeviceDetails]
  }

  func summary(of state: ModelState) -> Summary {
    Summary(
      time: state.time, transactionID: state.transactionID, dataBlockCount: state.dataBlockCount,
      isHeld: state.held != nil, devices: state.devices.mapValues(\.details))
  }

  func readBack() throws -> Summary {
    let view = try MetadataView(device, source: .current)
    var devices: [ThinID: DeviceDetails] = [:]
    for device in try view.devices() { devices[device.id] = device.details }
    return Summary(
      time: view.superblock.time, transactionID: view.superblock.transactionID,
      dataBlockCount: view.dataBlockCount, isHeld: view.superblock.metadataSnapshot != 0,
      devices: devices)
  }

  /// Compares the device with the last commit.
  /// - Parameter everything: whether to run the check and compare all devices; otherwise only those
  ///   changed last are compared.
  func compare(everything: Bool) throws {
    if everything {
      let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
      try expect(report.isClean, "the check says: \(report.findings.prefix(3))")
    }
    let found = try readBack()
    let expected = summary(of: committed)
    if found != expected {
      let ids = Set(found.devices.keys).union(expected.devices.keys).filter {
        found.devices[$0] != expected.devices[$0]
      }
      throw fail(
        "committed time \(found.time), id \(found.transactionID), \(found.dataBlockCount) blocks; "
          + "expected \(expected.time), \(expected.transactionID), \(expected.dataBlockCount); "
          + "devices that differ: "
          + ids.sorted().prefix(5).map {
            "\($0) \(String(describing: found.devices[$0])) "
              + "\(String(describing: expected.devices[$0]))"
          }.joined(separator: ", "))
    }
    try compare(.current, committed.devices, everything ? nil : changed)
    if everything, let held = committed.held { try compare(.metadataSnapshot, held, nil) }
    try expect(
      pool.freeDataBlocks == state.dataBlockCount - UInt64(state.references.count),
      "\(pool.freeDataBlocks) data blocks are free")
    try compareCounts(everything)
  }

  private func compare(
    _ source: MetadataView.Source, _ expected: [ThinID: ModelState.Device], _ ids: Set<ThinID>?
  ) throws {
    let view = try MetadataView(device, source: source)
    let devices = try view.devices()
    try expect(devices.count == expected.count, "\(devices.count) devices in \(source)")
    for device in devices where ids?.contains(device.id) ?? true {
      guard let model = expected[device.id] else {
        throw fail("device \(device.id) in \(source) should not exist")
      }
      try expect(device.details == model.details, "details of \(device.id) in \(source)")
      var found = 0
      var wrong: UInt64?
      try TreeReader(view.reader, .mappings).forEach(root: device.root.rawValue) { node, i in
        found += 1
        if model.mappings[node.key(i)] != node.value64(i) { wrong = wrong ?? node.key(i) }
      }
      try expect(
        wrong == nil && found == model.mappings.count,
        "device \(device.id) in \(source): \(found) mappings of \(model.mappings.count), "
          + "wrong one at \(wrong ?? 0)")
    }
  }

  /// Compares the counts of data blocks with the mappings of the devices; the check compares them
  /// with the nodes. A node that devices share counts once.
  private func compareCounts(_ everything: Bool) throws {
    for _ in 0..<(everything ? 64 : 8) {
      let block = UInt64.random(in: 0..<state.dataBlockCount, using: &random)
      let count = Int(try pool.dataCount(DataBlock(block)))
      let references = state.references[block] ?? 0
      try expect(
        count <= references && (count > 0) == (references > 0),
        "data block \(block) has count \(count), mappings \(references)")
    }
  }
}
