import PersistentData
import PoolManager
import ThinFormat
import ThinMetadata
import ThinTools

/// `dmthin pool snapshot`.
enum PoolSnapshotCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let volumes = try volumes(arguments)
    let activation =
      volumes.count == 1 ? try ThinActivation.requested(arguments, id: volumes[0].new) : nil
    if volumes.count > 1, arguments.has("activate") || arguments.has("size") {
      throw UsageError("'--activate <NAME>' goes with one snapshot; activate several afterwards")
    }
    switch try PoolPlace(arguments, console: console) {
    case .live(let manager, let pool):
      try manager.snapshot(pool, volumes, activate: activation)
    case .offline(let path):
      if activation != nil {
        throw UsageError("'--activate' is for active pools, and \(path) is metadata at rest")
      }
      try PoolAtRest.change(path) { pool throws(PoolError) in
        for volume in volumes {
          try pool.createSnapshot(volume.new, origin: volume.origin)
        }
      }
      PoolAtRest.recordOrigins(path, console) { $0.inherit(volumes) }
    }
    return ExitStatus.ok.rawValue
  }

  private static func volumes(_ arguments: ParsedArguments) throws(UsageError) -> [SnapshotVolume] {
    let operands = arguments.positionals.dropFirst()
    var volumes: [SnapshotVolume] = []
    for text in arguments.texts("volume") {
      let parts = text.split(separator: ":", omittingEmptySubsequences: false).map { String($0) }
      guard parts.count == 2 else {
        throw UsageError(
          "invalid value '\(text)' for '--volume <ORIGIN:NEW>': expected two ids")
      }
      volumes.append(
        SnapshotVolume(
          origin: try thinID(parts[0], "ORIGIN"),
          new: try thinID(parts[1], "NEW")))
    }
    switch (Array(operands), volumes.isEmpty) {
    case ([], false): return volumes
    case (let ids, true) where ids.count == 2:
      return [
        SnapshotVolume(
          origin: try thinID(ids[1], "ORIGIN"),
          new: try thinID(ids[0], "ID"))
      ]
    default:
      throw UsageError(
        "give either <ID> and <ORIGIN>, or '--volume <ORIGIN:NEW>' for each snapshot")
    }
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.poolVerb(
    "snapshot", summary: "snapshot thin devices, all at the same moment",
    description: """
      Makes thin devices that start with the contents of others. Active origins are suspended \
      before the first snapshot is taken and resumed after the last, so that all snapshots are of \
      the same moment, with mounted file systems consistent. If one cannot be taken, none is kept. \
      If the command is killed, the next command on any pool resumes the origins. An origin that \
      was already suspended stays suspended. If an origin has an inactive table, the command \
      refuses.
      """,
    options: [
      OptionSpec(
        "volume", value: .required(placeholder: "ORIGIN:NEW", .text),
        help:
          "A device and the id of its snapshot, instead of ID and ORIGIN. May be repeated.",
        isRepeatable: true),
      .activateAs, .activateSize,
    ],
    operands: [
      PositionalSpec("ID", help: "The id of the new snapshot.", isRequired: false),
      PositionalSpec("ORIGIN", help: "The id of the device to snapshot.", isRequired: false),
    ],
    examples: [
      ("$ pool 2 1", "Make thin device 2, a snapshot of 1."),
      ("$ pool --volume 1:11 --volume 2:12", "Snapshot 1 and 2 at the same moment."),
    ],
    seeAlso: ["dmthin-pool-create-thin", "dmthin-pool-delete", "thin_ls"])
}
