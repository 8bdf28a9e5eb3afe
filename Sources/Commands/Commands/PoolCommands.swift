import PersistentData
import PoolManager
import ThinFormat
import ThinMetadata
import ThinTools

let thinDeviceOperand = PositionalSpec(
  "ID", help: "The thin device's id, a number from 0 to 16777215.")
private let deviceOperand = PoolOperand(name: "ID", max: Limits.deviceIDMax)
private let devicesOperand = PoolOperand(name: "ID", max: Limits.deviceIDMax, takesRange: true)

private let thinDevicesOperand = PositionalSpec(
  "ID", help: "The thin device's id, a number from 0 to 16777215, or a range of ids, FIRST-LAST.")

/// The devices of a range that was parsed.
private func ids(_ numbers: [UInt64]) -> ClosedRange<ThinID> {
  ThinID(numbers[0])...ThinID(numbers[1])
}

extension OptionSpec {
  static let activateAs = OptionSpec(
    "activate", value: .required(placeholder: "NAME", .text),
    help: "Activate the new device under this name; --size says how large. Active pools only.")
  static let activateSize = size(
    "size", "Size of the activated device, like 10g.")
}

extension ThinActivation {
  /// Parses `--activate` and `--size`.
  static func requested(_ arguments: ParsedArguments, id: ThinID) throws(UsageError)
    -> ThinActivation?
  {
    switch (arguments.text("activate"), arguments.text("size")) {
    case (nil, nil): return nil
    case (let name?, let size?):
      return ThinActivation(name: name, id: id, sectors: try parsedSectors(size, "SIZE"))
    default: throw UsageError("'--activate <NAME>' and '--size <SIZE>' go together")
    }
  }
}

/// `dmthin pool create-thin`.
enum PoolCreateThinCommand: PoolVerb {
  static let operands = [devicesOperand]
  static let liveOptions = ["activate", "size"]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    for id in ids(numbers) { try pool.createThin(id) }
  }

  static func change(_ origins: inout OriginRecords.Origins, _ numbers: [UInt64]) {
    origins.forget(ids(numbers))
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    let activation = try ThinActivation.requested(arguments, id: ThinID(numbers[0]))
    guard activation == nil || numbers[0] == numbers[1] else {
      throw UsageError("'--activate <NAME>' goes with one thin device")
    }
    try manager.createThin(pool, ids(numbers), activate: activation)
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "create-thin", summary: "make thin devices",
    description: """
      Makes a thin device without blocks. If it cannot be activated, as --activate asks, it is \
      deleted again.
      """,
    options: [.activateAs, .activateSize], operands: [thinDevicesOperand],
    examples: [
      ("$ pool 1 --activate thin1 --size 10g", "Make thin device 1 and activate it."),
      ("$ /dev/mapper/vg-pool_tmeta 1", "Make thin device 1 in a pool that is not active."),
    ],
    seeAlso: ["dmthin-pool-snapshot", "dmthin-pool-delete", "dmthin-pool-activate-thin", "thin_ls"])
}

/// `dmthin pool create-snap`.
enum PoolCreateSnapshotCommand: PoolVerb {
  static let operands = [deviceOperand, PoolOperand(name: "ORIGIN", max: Limits.deviceIDMax)]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.createSnapshot(ThinID(numbers[0]), origin: ThinID(numbers[1]))
  }

  private static func snapshot(_ numbers: [UInt64]) -> SnapshotVolume {
    SnapshotVolume(origin: ThinID(numbers[1]), new: ThinID(numbers[0]))
  }

  static func change(_ origins: inout OriginRecords.Origins, _ numbers: [UInt64]) {
    origins.inherit([snapshot(numbers)])
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    try manager.snapshot(pool, [snapshot(numbers)])
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "create-snap", summary: "snapshot one thin device",
    description: """
      Makes a thin device that starts with the contents of another. Both can be written to; they \
      share the blocks that neither has written since. An active origin is suspended while the \
      snapshot is taken. dmthin pool snapshot does the same, and can take several at a time.
      """,
    operands: [
      thinDeviceOperand, PositionalSpec("ORIGIN", help: "The id of the device to snapshot."),
    ],
    examples: [("$ /dev/mapper/vg-pool_tmeta 2 1", "Make thin device 2, a snapshot of 1.")],
    seeAlso: ["dmthin-pool-snapshot", "dmthin-pool-create-thin", "dmthin-pool-delete", "thin_ls"])
}

/// `dmthin pool delete`.
enum PoolDeleteCommand: PoolVerb {
  static let operands = [devicesOperand]
  static let liveOptions = ["deactivate"]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    for id in ids(numbers) { try pool.delete(id) }
  }

  static func change(_ origins: inout OriginRecords.Origins, _ numbers: [UInt64]) {
    origins.forget(ids(numbers))
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    try manager.delete(pool, ids(numbers), deactivates: arguments.has("deactivate"))
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "delete", summary: "delete thin devices",
    description: "Deletes a thin device and frees the blocks that no other device shares.",
    options: [
      OptionSpec(
        "deactivate", help: "Deactivate it first if it is active. Fails if it is open.")
    ],
    operands: [thinDevicesOperand],
    examples: [
      ("$ pool 2 --deactivate", "Delete thin device 2 of an active pool."),
      ("$ /dev/mapper/vg-pool_tmeta 2", "Delete it from a pool that is not active."),
    ],
    seeAlso: ["dmthin-pool-create-thin", "dmthin-pool-create-snap", "thin_ls"])
}

/// `dmthin pool set-transaction-id`.
enum PoolSetTransactionIDCommand: PoolVerb {
  static let operands = [
    PoolOperand(name: "CURRENT", max: .max), PoolOperand(name: "NEW", max: .max),
  ]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.setTransactionID(numbers[0], numbers[1])
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    try manager.setTransactionID(pool, from: numbers[0], to: numbers[1])
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "set-transaction-id", summary: "set a pool's transaction id",
    description: """
      Sets the number by which volume managers tell whether the pool matches their own records.
      """,
    operands: [
      PositionalSpec("CURRENT", help: "The pool's present id; fails if it is another."),
      PositionalSpec("NEW", help: "The new id."),
    ],
    examples: [("$ /dev/mapper/vg-pool_tmeta 4 5", "Set the transaction id to 5 if it is 4.")],
    seeAlso: ["dmthin-pool-doctor", "thin_check", "thin_dump"])
}
