import Glibc
import PersistentData
import PoolManager
import ThinFormat
import ThinMetadata
import ThinTools

/// `dmthin pool reserve-metadata-snap`.
enum PoolReserveMetadataSnapshotCommand: PoolVerb {
  static let operands: [PoolOperand] = []
  static let liveOptions = ["owner", "holder", "seconds", "take-over"]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    guard pool.superblock.metadataSnapshot == 0 else {
      throw .invalid(
        "the pool holds a metadata snapshot already; release it first, with: dmthin pool "
          + "release-metadata-snap")
    }
    try pool.reserveMetadataSnapshot()
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    var request = LeaseRequest(owner: arguments.text("owner") ?? "user \(getuid())")
    request.seconds = arguments.number("seconds")
    request.takesOver = arguments.has("take-over")
    if let id = arguments.number("holder") {
      guard let holder = ProcessIdentity(running: Int32(clamping: id)) else {
        throw ToolError(.notFound(.input), "there is no process \(id)")
      }
      request.holder = holder
    }
    try console.line("\(manager.reserveMetadataSnapshot(pool, request))")
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "reserve-metadata-snap", summary: "make a metadata snapshot",
    description: """
      Keeps the metadata as it is now for the tools that have -m. A pool has at most one metadata \
      snapshot. For an active pool, its owner, its start and its lease are recorded, and the block \
      of its superblock is printed. The lease ends with its process, at its time limit, or at a \
      reboot; then the metadata snapshot is replaced. The lease stays with its pool if that is \
      renamed, or deactivated and activated again. A metadata snapshot whose lease has not ended, \
      or that was made without this command, is replaced only with --take-over.
      """,
    options: [
      OptionSpec(
        "owner", value: .required(placeholder: "TEXT", .text),
        help:
          "The owner's name, shown to others and required at release. Default: the user's id."),
      OptionSpec(
        "holder", value: .required(placeholder: "PID", .number(max: UInt64(Int32.max))),
        help: "A process; the lease ends when it ends. Default: none."),
      OptionSpec(
        "seconds", value: .required(placeholder: "NUM", .number),
        help: "Seconds until the lease ends. Default: it lasts until it is released."),
      OptionSpec(
        "take-over", help: "Replace a metadata snapshot that may still be in use."),
    ],
    examples: [
      (
        "$ pool --owner backup --holder PID",
        "Make one for a script, for as long as process PID runs."
      ),
      ("$ /dev/mapper/vg-pool_tmeta", "Make a metadata snapshot in a pool that is not active."),
    ],
    seeAlso: ["dmthin-pool-release-metadata-snap", "thin_dump", "thin_ls"])
}

/// `dmthin pool release-metadata-snap`.
enum PoolReleaseMetadataSnapshotCommand: PoolVerb {
  static let operands: [PoolOperand] = []
  static let liveOptions = ["owner", "force"]

  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError) {
    try pool.releaseMetadataSnapshot()
  }

  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws {
    try manager.releaseMetadataSnapshot(
      pool, owner: arguments.text("owner") ?? "user \(getuid())", force: arguments.has("force"))
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "release-metadata-snap", summary: "release a metadata snapshot",
    description: "Releases the metadata snapshot and frees the blocks that only it uses.",
    options: [
      OptionSpec(
        "owner", value: .required(placeholder: "TEXT", .text),
        help: "The owner's name given when it was reserved. Default: the user's id."),
      OptionSpec("force", help: "Also release one of another owner whose lease has not ended."),
    ],
    examples: [("$ pool --owner backup", "Release the metadata snapshot of an active pool.")],
    seeAlso: ["dmthin-pool-reserve-metadata-snap", "thin_check"])
}
