public import DeviceMapper
public import ThinTools

/// What is known of an active pool that may be wrong with it. `findings` needs nothing else.
public struct PoolSymptoms: Sendable {
  /// The pool's name.
  public var name: String
  /// What it says of itself.
  public var status: ThinPoolStatus
  /// What its table asks for.
  public var target: ThinPoolTarget
  /// Sectors of its table.
  public var tableSectors: UInt64
  /// Sectors that the data device has now; nil where it is gone.
  public var dataDeviceSectors: UInt64?
  /// Blocks of 4096 bytes that the metadata device has now; nil where it is gone.
  public var metadataDeviceBlocks: UInt64?
  /// A path of the metadata device.
  public var metadataPath: String
  /// A path of the data device.
  public var dataPath: String
  /// What reading the superblock of the metadata device gave: nothing, or a fault.
  public var metadataFault: ToolError?
  /// Whether the pool itself is suspended.
  public var isSuspended = false
  /// Whether a table waits for a resume.
  public var hasInactiveTable = false
  /// Names of suspended thin devices of the pool.
  public var suspendedThins: [String] = []
  /// Who holds the metadata snapshot, in a sentence; nil where nothing tells.
  public var lease: String?
  /// Why that lease does not count any more; nil where it does.
  public var leaseFault: String?
  /// The transaction id that somebody else expects, and who that is.
  public var expected: (id: UInt64, by: String)?
  /// What it said `seconds` before.
  public var earlier: (status: ThinPoolStatus, seconds: UInt64)?

  /// A pool of which no more is known.
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

  /// What is wrong, the worst first.
  public func findings() -> [Diagnosis] {
    var found = deviceFindings()
    switch status {
    case .failed, .error:
      found.append(
        Diagnosis(
          .problem, status == .failed ? "failed" : "metadata-error",
          "the pool has failed: its metadata could not be read or written, all I/O ends in errors, "
            + "and only activation ends that" + (metadataFault.map { " (\($0))" } ?? ""),
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
          .problem, "suspended", "the pool is suspended, so that all its I/O waits",
          next: ["dmthin dm resume \(quoted)"]))
    } else if hasInactiveTable {
      found.append(
        Diagnosis(
          .warning, "table-waits",
          "a table waits for the next resume; somebody may have stopped half "
            + "way", next: ["dmthin dm table --inactive \(quoted)", "dmthin dm clear \(quoted)"]))
    }
    for name in suspendedThins {
      found.append(
        Diagnosis(
          .problem, "thin-suspended", "thin device \(name) is suspended, so that its I/O waits",
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
          "an operation on the metadata failed, was undone, and the pool is read-only until the "
            + "metadata was checked", next: repairCommands))
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
            "the pool became read-only by itself, after a failed operation on the metadata",
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
          "a metadata snapshot is held and nothing tells by whom; while it is, blocks of deleted "
            + "metadata are not freed, and no other can be made", next: [release])
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
  /// Two transaction ids that differ.
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
