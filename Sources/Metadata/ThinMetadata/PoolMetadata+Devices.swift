public import PersistentData
public import ThinFormat

// Devices: creation, snapshots, deletion, opening and closing.
extension PoolMetadata {
  private func checkID(_ id: ThinID) throws(PoolError) {
    guard id <= .max else {
      throw .invalid("device id \(id): expected at most \(ThinID.max)")
    }
  }

  /// Whether the device exists.
  public func hasDevice(_ id: ThinID) throws(PoolError) -> Bool {
    if isForReading {
      return try deviceTree.lookup64(root: superblock.mappingRoot, key: id.rawValue) != nil
    }
    if records[id] != nil { return true }
    return try readDetails(id) != nil
  }

  /// Makes a device without mappings.
  /// - Throws: `.exists`.
  public func createThin(_ id: ThinID) throws(PoolError) {
    try changing { () throws(PoolError) in
      try checkID(id)
      guard try !hasDevice(id) else { throw .exists }
      let root = try mappingTree.empty()
      try insertDevice(id, root: root)
      addRecord(id)
    }
  }

  /// Makes a device that starts with the mappings of another. The origin must not be written to at
  /// the same time.
  /// - Throws: `.exists`, `.notFound` for the origin, and `.invalid` if the pool's time has reached
  ///   the largest that fits a mapping: with one more, the kernel's packing would corrupt every
  ///   data block mapped afterwards.
  public func createSnapshot(_ id: ThinID, origin: ThinID) throws(PoolError) {
    try changing { () throws(PoolError) in
      try checkID(id)
      guard superblock.time < Limits.timeMax else {
        throw .invalid(
          "the pool's time is \(superblock.time), the largest there is: no more snapshots can be "
            + "made in this pool")
      }
      guard try !hasDevice(id) else { throw .exists }
      guard let root = try deviceTree.lookup64(root: superblock.mappingRoot, key: origin.rawValue)
      else {
        throw .invalid("origin \(origin) does not exist")
      }
      guard try hasDevice(origin) else {
        throw .inconsistent("device \(origin) has a mapping tree but no details")
      }
      try tm.spaceMap.increment(root, root &+ 1, tm)
      try insertDevice(id, root: root)
      superblock.time += 1
      addRecord(id)
      var from = try record(origin)
      from.details.snapshottedTime = superblock.time
      from.isChanged = true
      records[origin] = from
      records[id]?.details.mappedBlocks = from.details.mappedBlocks
    }
  }

  /// Deletes a device that is not open.
  /// - Throws: `.busy`, or `.invalid` if it does not exist.
  public func delete(_ id: ThinID) throws(PoolError) {
    try changing { () throws(PoolError) in
      guard try hasDevice(id) else { throw .invalid("device \(id) does not exist") }
      guard try record(id).openCount == 0 else { throw .busy }
      records[id] = nil
      // Details are written at commit: a device made in this transaction has none yet.
      if try readDetails(id) != nil {
        superblock.detailsRoot = try detailsTree.remove(
          root: superblock.detailsRoot, key: id.rawValue)
      }
      superblock.mappingRoot = try deviceTree.remove(root: superblock.mappingRoot, key: id.rawValue)
    }
  }

  func insertDevice(_ id: ThinID, root: UInt64) throws(PoolError) {
    superblock.mappingRoot = try unsafe deviceTree.insert(
      root: superblock.mappingRoot, key: id.rawValue
    ) {
      unsafe $0.storeBytes(of: root.littleEndian, as: UInt64.self)
    }.root
  }

  private func addRecord(_ id: ThinID) {
    let details = DeviceDetails(
      mappedBlocks: 0, transactionID: superblock.transactionID,
      creationTime: superblock.time, snapshottedTime: superblock.time)
    recordsMade += 1
    records[id] = Record(details: details, number: recordsMade, isChanged: true)
  }

  /// The record of a device, read from disk if necessary.
  func record(_ id: ThinID) throws(PoolError) -> Record {
    if let known = records[id] { return known }
    guard let details = try readDetails(id) else { throw .invalid("device \(id) does not exist") }
    recordsMade += 1
    let record = Record(details: details, number: recordsMade)
    records[id] = record
    return record
  }

  /// Opens a device. It cannot be deleted until it has been closed as often as opened.
  public func openDevice(_ id: ThinID) throws(PoolError) {
    if isForReading {
      guard try hasDevice(id) else { throw .invalid("device \(id) does not exist") }
      return
    }
    _ = try record(id)
    records[id]?.openCount += 1
  }

  /// Closes a device that was opened.
  public func closeDevice(_ id: ThinID) throws(PoolError) {
    if isForReading { return }
    guard let record = records[id], record.openCount > 0 else {
      throw .invalid("device \(id) is not open")
    }
    records[id]?.openCount -= 1
  }

  /// The details of a device, including changes of this transaction.
  public func details(of id: ThinID) throws(PoolError) -> DeviceDetails {
    if let known = records[id] { return known.details }
    guard let details = try readDetails(id) else { throw .invalid("device \(id) does not exist") }
    return details
  }

  /// Whether a device was changed in this transaction.
  public func hasChanged(_ id: ThinID) -> Bool {
    records[id]?.isChanged ?? false
  }
}
