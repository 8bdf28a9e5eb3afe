extension Dispatcher {
  /// The command for one or two words or for a program's name. This list avoids making every
  /// command's specification, which would take longer than most `dmthin` calls. A command that is
  /// not in it is found by its specification.
  static func wellKnown(_ name: String) -> (any Command.Type)? {
    switch name {
    case "check", "thin_check": CheckCommand.self
    case "dump", "thin_dump": DumpCommand.self
    case "repair", "thin_repair": RepairCommand.self
    case "restore", "thin_restore": RestoreCommand.self
    case "ls", "thin_ls": LsCommand.self
    case "delta", "thin_delta": DeltaCommand.self
    case "rmap", "thin_rmap": RmapCommand.self
    case "pack", "thin_metadata_pack": PackCommand.self
    case "unpack", "thin_metadata_unpack": UnpackCommand.self
    case "size", "thin_metadata_size": MetadataSizeCommand.self
    case "extract", "dmthin-extract": ExtractCommand.self
    case "dm", "dmsetup", "dmthin-dm": DmCommand.self
    case "pool create": PoolCreateCommand.self
    case "pool activate": PoolActivateCommand.self
    case "pool deactivate": PoolDeactivateCommand.self
    case "pool status": PoolStatusCommand.self
    case "pool events": PoolEventsCommand.self
    case "pool doctor": PoolDoctorCommand.self
    case "pool create-thin": PoolCreateThinCommand.self
    case "pool snapshot": PoolSnapshotCommand.self
    case "pool create-snap": PoolCreateSnapshotCommand.self
    case "pool activate-thin": PoolActivateThinCommand.self
    case "pool resize": PoolResizeCommand.self
    case "pool delete": PoolDeleteCommand.self
    case "pool grow": PoolGrowCommand.self
    case "pool features": PoolFeaturesCommand.self
    case "pool set-transaction-id": PoolSetTransactionIDCommand.self
    case "pool reserve-metadata-snap": PoolReserveMetadataSnapshotCommand.self
    case "pool release-metadata-snap": PoolReleaseMetadataSnapshotCommand.self
    case "pool format": PoolFormatCommand.self
    default: nil
    }
  }

  /// Names of programs that do not select a command.
  static func isOwnName(_ program: String) -> Bool {
    program == "dmthin" || program == "thin-tools"
  }
}
