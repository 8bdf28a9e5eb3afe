import PersistentData
import ThinFormat
import ThinMetadata

private let deviceID = PositionalSpec(
  "ID", help: "The thin device's id, a number from 0 to 16777215.")
private let deviceOperand = (name: "ID", max: Limits.deviceIDMax)

/// `dmthin pool create-thin`.
enum PoolCreateThinCommand: PoolVerb {
  static let operands = [deviceOperand]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.createThin(numbers[0])
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "create-thin", summary: "make a thin device in an inactive pool",
    description: "Makes a thin device that has no blocks yet.", operands: [deviceID],
    example: "$ /dev/mapper/vg-pool_tmeta 1", purpose: "Make thin device 1.",
    seeAlso: ["dmthin-pool-create-snap", "dmthin-pool-delete", "thin_ls"])
}

/// `dmthin pool create-snap`.
enum PoolCreateSnapshotCommand: PoolVerb {
  static let operands = [deviceOperand, (name: "ORIGIN", max: Limits.deviceIDMax)]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.createSnapshot(numbers[0], origin: numbers[1])
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "create-snap", summary: "snapshot a thin device of an inactive pool",
    description: """
      Makes a thin device that starts with the contents of another. Both can be written to; they \
      share the blocks that neither has written since.
      """,
    operands: [deviceID, PositionalSpec("ORIGIN", help: "The id of the device to snapshot.")],
    example: "$ /dev/mapper/vg-pool_tmeta 2 1", purpose: "Make thin device 2, a snapshot of 1.",
    seeAlso: ["dmthin-pool-create-thin", "dmthin-pool-delete", "thin_ls"])
}

/// `dmthin pool delete`.
enum PoolDeleteCommand: PoolVerb {
  static let operands = [deviceOperand]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.delete(numbers[0])
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "delete", summary: "delete a thin device of an inactive pool",
    description: "Deletes a thin device and frees the blocks that no other device shares.",
    operands: [deviceID], example: "$ /dev/mapper/vg-pool_tmeta 2",
    purpose: "Delete thin device 2.",
    seeAlso: ["dmthin-pool-create-thin", "dmthin-pool-create-snap", "thin_ls"])
}

/// `dmthin pool set-transaction-id`.
enum PoolSetTransactionIDCommand: PoolVerb {
  static let operands = [
    (name: "CURRENT", max: UInt64.max), (name: "NEW", max: UInt64.max),
  ]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.setTransactionID(numbers[0], numbers[1])
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "set-transaction-id", summary: "set the transaction id of an inactive pool",
    description: """
      Sets the number that volume managers keep to tell whether pool and their own records belong \
      together.
      """,
    operands: [
      PositionalSpec("CURRENT", help: "The id that the pool has; nothing is done if it differs."),
      PositionalSpec("NEW", help: "The id that the pool gets."),
    ],
    example: "$ /dev/mapper/vg-pool_tmeta 4 5", purpose: "Set the transaction id to 5 if it is 4.",
    seeAlso: ["thin_check", "thin_dump"])
}

/// `dmthin pool reserve-metadata-snap`.
enum PoolReserveMetadataSnapshotCommand: PoolVerb {
  static let operands: [(name: String, max: UInt64)] = []

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    guard pool.superblock.metadataSnapshot == 0 else {
      throw .invalid(
        "the pool holds a metadata snapshot already; release it first, with: dmthin pool "
          + "release-metadata-snap")
    }
    try pool.reserveMetadataSnapshot()
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "reserve-metadata-snap", summary: "make a metadata snapshot of an inactive pool",
    description: """
      Keeps the metadata as it is now for the tools that have -m, also while the pool is active \
      later. There can be one metadata snapshot.
      """,
    example: "$ /dev/mapper/vg-pool_tmeta", purpose: "Make a metadata snapshot.",
    seeAlso: ["dmthin-pool-release-metadata-snap", "thin_dump", "thin_ls"])
}

/// `dmthin pool release-metadata-snap`.
enum PoolReleaseMetadataSnapshotCommand: PoolVerb {
  static let operands: [(name: String, max: UInt64)] = []

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.releaseMetadataSnapshot()
  }

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "release-metadata-snap", summary: "release an inactive pool's metadata snapshot",
    description: "Gives up the metadata snapshot and frees the blocks that it alone has.",
    example: "$ /dev/mapper/vg-pool_tmeta", purpose: "Release the metadata snapshot.",
    seeAlso: ["dmthin-pool-reserve-metadata-snap", "thin_check"])
}
