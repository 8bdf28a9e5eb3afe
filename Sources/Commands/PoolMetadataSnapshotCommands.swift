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

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "reserve-metadata-snap", summary: "make a metadata snapshot",
    description: """
      Keeps the metadata as it is now for the tools that have -m. There can be one metadata snapshot; \
      of an active pool it is written down who has it, since when and for how long, and the block of \
      its superblock is printed. One whose lease is over (its process has ended, its time is up, or it \
      was taken before the last boot) is replaced; a lease stays with its pool when that is renamed, or \
      deactivated and activated again; one that others made without this command, and one \
      whose lease still counts, with --take-over only.
      """,
    options: [
      OptionSpec(
        "owner", value: .required(placeholder: "TEXT", .text),
        help:
          "Who takes it, to be shown to others and asked for at release. Default: the user's id."),
      OptionSpec(
        "holder", value: .required(placeholder: "PID", .number(max: UInt64(Int32.max))),
        help: "A process with whose end the lease is over. Default: none."),
      OptionSpec(
        "seconds", value: .required(placeholder: "NUM", .number),
        help: "Seconds after which the lease is over. Default: it stays until it is released."),
      OptionSpec(
        "take-over", help: "Replace a metadata snapshot that somebody may still be reading."),
    ],
    examples: [
      ("$ pool --owner backup --holder PID", "From a script that reads it, and may be killed."),
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

  /// What the command takes.
  static let spec = CommandSpec.poolVerb(
    "release-metadata-snap", summary: "release a metadata snapshot",
    description: "Gives up the metadata snapshot and frees the blocks that it alone has.",
    options: [
      OptionSpec(
        "owner", value: .required(placeholder: "TEXT", .text),
        help: "Who took it, as given then. Default: the user's id."),
      OptionSpec("force", help: "Also where it is another's, whose lease still counts."),
    ],
    examples: [("$ pool --owner backup", "Release the metadata snapshot of an active pool.")],
    seeAlso: ["dmthin-pool-reserve-metadata-snap", "thin_check"])
}
