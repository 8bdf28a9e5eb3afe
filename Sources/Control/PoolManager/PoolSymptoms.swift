public import DeviceMapper
public import ThinTools

/// The observed state of an active pool. `findings` needs nothing else.
public struct PoolSymptoms: Sendable {
  /// The pool's name.
  public var name: String
  /// Its status.
  public var status: ThinPoolStatus
  /// Its parsed table.
  public var target: ThinPoolTarget
  /// Sectors of its table.
  public var tableSectors: UInt64
  /// The present size of the data device in sectors; nil if it is missing.
  public var dataDeviceSectors: UInt64?
  /// The present size of the metadata device in blocks of 4096 bytes; nil if it is missing.
  public var metadataDeviceBlocks: UInt64?
  /// A path of the metadata device.
  public var metadataPath: String
  /// A path of the data device.
  public var dataPath: String
  /// The fault found when reading the superblock of the metadata device; nil for none.
  public var metadataFault: ToolError?
  /// Whether the pool itself is suspended.
  public var isSuspended = false
  /// Whether it has an inactive table.
  public var hasInactiveTable = false
  /// Names of suspended thin devices of the pool.
  public var suspendedThins: [String] = []
  /// A sentence on the owner of the metadata snapshot; nil if unknown.
  public var lease: String?
  /// Why that lease has ended; nil while it holds.
  public var leaseFault: String?
  /// The transaction id that another program expects, and the program's name.
  public var expected: (id: UInt64, by: String)?
  /// The status `seconds` before.
  public var earlier: (status: ThinPoolStatus, seconds: UInt64)?

  /// A pool of which only this is known.
  public init(
    name: String, status: ThinPoolStatus, target: ThinPoolTarget, tableSectors: UInt64,
    metadataPath: String, dataPath: String
  ) {
    self.name = name
    self.status = status
    self.target = target
    self.tableSectors = tableSectors
    self.metadataPath = metadataPath
    self.dataPath = dataPath
  }

  private var quoted: String { shellQuoted(name) }
  private var activate: String {
    "dmthin pool activate \(quoted) --metadata \(shellQuoted(metadataPath)) --data "
      + shellQuoted(dataPath)
  }

  /// The problems found, the worst first.
  public func findings() -> [Diagnosis] {
    var found = deviceFindings()
    switch status {
    case .failed, .error:
      found.append(
        Diagnosis(
          .problem, status == .failed ? "failed" : "metadata-error",
          "the pool has failed: its metadata could not be read or written, all I/O fails, "
            + "and only a new activation ends that" + (metadataFault.map { " (\($0))" } ?? ""),
          next: repairCommands, fault: metadataFault.map { FaultFields($0) }))
    case .working(let details):
      found += modeFindings(details) + spaceFindings(details) + snapshotFindings(details)
      if let expected, expected.id != details.transactionID {
        found.append(
          Diagnosis.transactionID(
            expected: expected.id, by: expected.by, found: details.transactionID, pool: quoted))
      }
    }
    return found
  }

  private var repairCommands: [String] {
    [
      "dmthin pool deactivate --all \(quoted)",
      "thin_check --auto-repair \(shellQuoted(metadataPath))", activate,
    ]
  }

  private func deviceFindings() -> [Diagnosis] {
    var found: [Diagnosis] = []
    for (what, path, isThere) in [
      ("metadata", metadataPath, metadataDeviceBlocks != nil),
      ("data", dataPath, dataDeviceSectors != nil),
    ] where !isThere {
      found.append(Diagnosis(.problem, "device-gone", "the \(what) device \(path) is gone"))
    }
    if case .working = status, let metadataFault {
      found.append(
        Diagnosis(
          .problem, "metadata-unreadable", "the metadata device \(metadataPath): \(metadataFault)",
          next: ["dmesg | tail"], fault: FaultFields(metadataFault)))
    }
    if isSuspended {
      found.append(
        Diagnosis(
          .problem, "suspended", "the pool is suspended, and all its I/O waits",
          next: ["dmthin dm resume \(quoted)"]))
    } else if hasInactiveTable {
      found.append(
        Diagnosis(
          .warning, "table-waits",
          "the pool has an inactive table, which an interrupted command may have left "
            + "behind", next: ["dmthin dm table --inactive \(quoted)", "dmthin dm clear \(quoted)"])
      )
    }
    for name in suspendedThins {
      found.append(
        Diagnosis(
          .problem, "thin-suspended", "thin device \(name) is suspended, and its I/O waits",
          next: ["dmthin dm resume \(shellQuoted(name))"]))
    }
    return found
  }

  private func modeFindings(_ details: ThinPoolStatus.Details) -> [Diagnosis] {
    var found: [Diagnosis] = []
    let isMetadataFull = details.metadata.used >= details.metadata.total
    if details.needsCheck {
      found.append(
        Diagnosis(
          .problem, "needs-check",
          "an operation on the metadata failed and was undone, and the pool is read-only until the "
            + "metadata is checked", next: repairCommands))
    } else if details.mode == .readOnly {
      if target.features.contains(.readOnly) {
        found.append(
          Diagnosis(
            .note, "read-only", "the pool is read-only because its table says so",
            next: ["dmthin pool features \(quoted) --disable read_only"]))
      } else if isMetadataFull {
        found.append(
          Diagnosis(
            .problem, "metadata-full", "the metadata is full: nothing can be written or deleted",
            next: ["enlarge \(metadataPath)", "dmthin pool grow \(quoted)"]))
      } else {
        found.append(
          Diagnosis(
            .problem, "read-only",
            "the pool became read-only after a failed operation on the metadata",
            next: repairCommands))
      }
    } else if details.mode == .outOfDataSpace {
      let policy =
        details.noSpace == .queue
        ? "writes that need a block wait, up to the kernel's time-out"
        : "writes that need a block fail"
      found.append(
        Diagnosis(
          .problem, "data-full", "the data device is full: \(policy)",
          next: [
            "enlarge \(dataPath)", "dmthin pool grow \(quoted)",
            "or free blocks: fstrim MOUNTPOINT, dmthin pool delete \(quoted) ID",
          ]))
    }
    return found
  }

  private func snapshotFindings(_ details: ThinPoolStatus.Details) -> [Diagnosis] {
    guard details.heldRoot != nil else { return [] }
    let release = "dmthin pool release-metadata-snap \(quoted)"
    guard let lease else {
      return [
        Diagnosis(
          .warning, "metadata-snapshot-unknown",
          "a metadata snapshot is held, and its owner is unknown; it keeps blocks of deleted "
            + "metadata in use, and prevents another one", next: [release])
      ]
    }
    guard let leaseFault else {
      return [Diagnosis(.note, "metadata-snapshot", lease)]
    }
    return [
      Diagnosis(
        .warning, "metadata-snapshot-leaked",
        "a metadata snapshot was left behind: \(lease), but \(leaseFault)", next: [release])
    ]
  }
}

extension Diagnosis {
  /// A finding about two transaction ids that differ.
  public static func transactionID(expected: UInt64, by who: String, found: UInt64, pool: String)
    -> Diagnosis
  {
    let why =
      found > expected
      ? "the metadata is newer: records of \(who) were restored from a backup, or the pool was "
        + "changed elsewhere"
      : "the metadata is older: it was restored from a copy, or a change did not reach it"
    return Diagnosis(
      .problem, "transaction-id",
      "the transaction id is \(found), but \(who) expects \(expected): \(why)",
      next: [
        "thin_ls METADATA  # compare its devices with those that \(who) knows",
        "dmthin pool set-transaction-id \(pool) \(found) \(expected)  # if they are the same",
      ], fault: .numbers("transaction_id", expected, found: found))
  }
}
