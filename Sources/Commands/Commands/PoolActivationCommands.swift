import DeviceMapper
import PoolManager
import ThinFormat
import ThinTools

private let features = ThinPoolTarget.Feature.allCases.map(\.rawValue)

extension ParsedArguments {
  /// The features listed in an option's value.
  fileprivate func features(_ name: String) -> Set<ThinPoolTarget.Feature> {
    Set((words(name) ?? []).compactMap { ThinPoolTarget.Feature(rawValue: $0) })
  }

  /// The options common to `create` and `activate`.
  fileprivate func poolActivation() -> PoolActivation {
    var request = PoolActivation(
      name: positionals[0], metadata: text("metadata") ?? "", data: text("data") ?? "")
    request.lowWaterBlocks = number("low-water")
    request.features = features("features")
    request.uuid = text("uuid")
    return request
  }
}

private let activationOptions = [
  OptionSpec(
    "metadata", value: .required(placeholder: "DEV", .path),
    help: "The metadata device.", isRequired: true),
  OptionSpec(
    "data", value: .required(placeholder: "DEV", .path), help: "The data device.",
    isRequired: true),
  OptionSpec(
    "low-water", value: .required(placeholder: "BLOCKS", .number),
    help: """
      Free data blocks at which the pool raises an event. Default: a twentieth of all, 16 GiB at most.
      """),
  OptionSpec(
    "features", value: .required(placeholder: "LIST", .list(features)),
    help:
      "Features of the kernel's target, separated by commas: \(features.joined(separator: ", "))."),
  OptionSpec(
    "uuid", value: .required(placeholder: "UUID", .text), help: "The device's uuid. Default: none."),
]

private let poolName = PositionalSpec("POOL", help: "The name that the active pool gets.")

/// `dmthin pool create`.
enum PoolCreateCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    var request = arguments.poolActivation()
    if let size = arguments.text("block-size") {
      request.blockSectors = UInt32(clamping: try parsedSectors(size, "SIZE"))
    }
    request.overwrites = arguments.has("force")
    let geometry = try PoolSites(arguments, console).activating(
      request, allowsFallback: !arguments.has("no-fallback")
    ) { try $0.manager.create(request) }
    if let warning = geometry.warning { console.warning(warning) }
    console.note("\(request.name): \(geometry.reason)")
    console.note(
      "\(request.name): an event is raised when \(geometry.lowWaterBlocks) data blocks are left")
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "create", summary: "make a pool on two devices and activate it",
    description: [
      """
      Both devices must be unused, and the metadata device must be empty: its first 4096 bytes \
      zero. If anything fails, they are zero again.
      """,
      """
      Without --block-size, data blocks get the smallest size with which the mappings of all data \
      take at most half of the metadata; the reason is printed.
      """,
    ],
    options: activationOptions + [
      .size("block-size", "Size of a data block: a multiple of 64k, up to 1g."),
      OptionSpec(
        "force", help: "Overwrite what the metadata device holds. It is lost."),
    ],
    operands: [poolName],
    examples: [
      ("$ pool --metadata /dev/vg/meta --data /dev/vg/data", "Make a pool and activate it.")
    ],
    backend: [.newPoolBackend, .control, .noFallback],
    statuses: [
      (.damaged, "The metadata device is not empty, or the kernel refuses the pool."),
      (.output, "A device is too small."),
    ],
    seeAlso: ["dmthin-pool-activate", "dmthin-pool-create-thin", "thin_metadata_size"])
}

/// `dmthin pool activate`.
enum PoolActivateCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    var request = arguments.poolActivation()
    request.skipsCheck = arguments.has("no-check")
    // They were validated when the command line was parsed.
    let volumes = arguments.texts("volume").compactMap { try? VolumeSpec($0) }
    if let volume = volumes.first(where: { $0.sectors == nil }) {
      throw UsageError(
        "'--volume \(volume.name)=\(volume.id)' has no size; give \(volume.name)=\(volume.id):SIZE")
    }
    let blocks = try PoolSites(arguments, console).activating(
      request, allowsFallback: !arguments.has("no-fallback")
    ) { site in
      let blocks = try site.manager.activatePool(request, volumes: volumes)
      for volume in volumes {
        guard let address = site.address(of: volume.name) else { continue }
        console.note("\(volume.name): \(address)")
      }
      return blocks
    }
    if blocks.present > blocks.recorded {
      console.note(
        "\(request.name): data has grown from \(blocks.recorded) to \(blocks.present) blocks")
    }
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "activate", summary: "activate an existing pool",
    description: [
      """
      First checks the superblock and the device tree of the metadata, and whether the data device \
      has all blocks that the pool knows. Activates nothing that the kernel would damage further. \
      If the data device is larger, the pool grows to all of it. The block size is the metadata's.
      """
    ],
    options: activationOptions + [
      OptionSpec("no-check", help: "Check only the superblock before activating."),
      .volume(
        """
        A thin device to activate as well, under a name. If one of them cannot be activated, \
        nothing stays active. ORIGIN is a device that is read where nothing is mapped; - removes \
        it.
        """, form: "NAME=ID:SIZE[:ORIGIN]"),
    ],
    operands: [poolName],
    examples: [
      ("$ pool --metadata /dev/vg/meta --data /dev/vg/data", "Activate a pool."),
      (
        "$ p --metadata vg/meta --data vg/data --features read_only",
        "The same, without writing to the metadata."
      ),
      (
        "$ pool --metadata meta --data data --volume root=1:10g",
        "Serve files by NBD instead; the address of root is printed."
      ),
    ],
    backend: [.newPoolBackend, .control, .noFallback],
    statuses: [
      (.damaged, "The metadata is damaged or needs a check, or the data device does not fit it.")
    ],
    seeAlso: [
      "dmthin-pool-create", "dmthin-pool-activate-thin", "dmthin-pool-doctor", "thin_check",
    ])
}

/// `dmthin pool activate-thin`.
enum PoolActivateThinCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let operands = arguments.positionals
    var activation = ThinActivation(
      name: operands[1], id: try thinID(operands[2], "ID"),
      sectors: try parsedSectors(operands[3], "SIZE"),
      origin: arguments.text("external-origin").map { .path($0) }
        ?? (arguments.has("no-external-origin") ? .none : .unstated))
    activation.isReadOnly = arguments.has("read-only")
    activation.uuid = arguments.text("uuid")
    let pool = PoolPlace.mappedName(operands[0])
    let site = try PoolSites(arguments, console).site(of: pool)
    try site.manager.activateThin(site.manager.pool(pool), activation)
    if let address = site.address(of: activation.name) {
      console.note("\(activation.name): \(address)")
    }
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "activate-thin", summary: "activate a thin device of an active pool",
    description: [
      """
      The pool does not record the size of its thin devices. Blocks beyond SIZE are hidden; blocks \
      that were never written read as zeros.
      """
    ],
    options: [
      OptionSpec(
        "external-origin", value: .required(placeholder: "DEV", .path),
        help: """
          A device that is read where the thin device has nothing mapped. It must never be written \
          to. It is needed at each activation, of snapshots too: its path is recorded in \
          /var/lib/dmthin/origins (or DMTHIN_ORIGINS), and an activation without it is then \
          refused.
          """, conflicts: ["no-external-origin"]),
      OptionSpec(
        "no-external-origin", help: "Activate without external origin, and forget the recorded one."
      ),
      OptionSpec("read-only", help: "The device refuses writes."),
      OptionSpec(
        "uuid", value: .required(placeholder: "UUID", .text),
        help: "The device's uuid. Default: none."),
    ],
    operands: [
      .activePool, PositionalSpec("NAME", help: "The name that the device gets."),
      thinDeviceOperand, .size("Its size, like 10g."),
    ],
    examples: [
      ("$ pool thin1 1 10g", "Activate thin device 1 as /dev/mapper/thin1."),
      (
        "$ pool clone 2 10g --external-origin /dev/vg/image",
        "Read an image where 2 has nothing mapped."
      ),
    ],
    seeAlso: ["dmthin-pool-create-thin", "dmthin-pool-deactivate", "dmthin-pool-resize"])
}

/// `dmthin pool deactivate`.
enum PoolDeactivateCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let name = PoolPlace.mappedName(arguments.positionals[0])
    try PoolSites(arguments, console).site(of: name).manager.deactivate(
      name, all: arguments.has("all"),
      deferred: arguments.has("deferred"))
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "deactivate", summary: "deactivate a thin device or a pool",
    description: ["Removes the device from the system. Its content stays in the pool."],
    options: [
      OptionSpec("all", help: "For a pool: deactivate its active thin devices first."),
      OptionSpec("deferred", help: "Remove an open device when it is closed."),
    ],
    operands: [PositionalSpec("NAME", help: "Name of an active thin device or pool.")],
    examples: [
      ("$ thin1", "Deactivate a thin device."),
      ("$ --all pool", "Deactivate a pool and its thin devices."),
    ],
    statuses: [
      (.damaged, "It is neither a thin device nor a pool."),
      (.busy, "It is open, or is a pool with active thin devices."),
    ],
    seeAlso: ["dmthin-pool-activate", "dmthin-pool-activate-thin"])
}

/// `dmthin pool resize`.
enum PoolResizeCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let name = arguments.positionals[0]
    try PoolSites(arguments, console).site(of: name).manager.resizeThin(
      name, sectors: parsedSectors(arguments.positionals[1], "SIZE"),
      shrinks: arguments.has("shrink"))
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "resize", summary: "give an active thin device another size",
    description: [
      """
      The device keeps its old table until the new one is live, and gets it back if the new one \
      fails. Resizing the file system on it is up to you.
      """
    ],
    options: [
      OptionSpec(
        "shrink", help: "Allow a smaller size. Blocks beyond the new end are hidden, not freed.")
    ],
    operands: [
      PositionalSpec("NAME", help: "Name of an active thin device."),
      .size("Its new size, like 20g."),
    ],
    examples: [("$ thin1 20g", "Make it 20 GiB large.")],
    seeAlso: ["dmthin-pool-grow", "dmthin-pool-activate-thin"])
}

/// `dmthin pool grow`.
enum PoolGrowCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let name = PoolPlace.mappedName(arguments.positionals[0])
    let manager = try PoolSites(arguments, console).site(of: name).manager
    let growth = try manager.grow(manager.pool(name))
    for (what, blocks) in [("data", growth.data), ("metadata", growth.metadata)] {
      try console.line(
        blocks.before == blocks.after
          ? "\(what): \(blocks.before) blocks, as before"
          : "\(what): \(blocks.before) -> \(blocks.after) blocks")
    }
    return ExitStatus.ok.rawValue
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "grow", summary: "extend a pool to the new size of its devices",
    description: [
      """
      Enlarge the data device, the metadata device or both first. The pool keeps its old table \
      until the new one is live. Writes that waited for space continue.
      """
    ],
    operands: [.activePool],
    examples: [("$ pool", "Extend the pool to all of both devices.")],
    seeAlso: ["dmthin-pool-resize", "dmthin-pool-status", "thin_metadata_size"])
}

/// `dmthin pool features`.
enum PoolFeaturesCommand: Command {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let (enable, disable) = (arguments.features("enable"), arguments.features("disable"))
    if let both = enable.intersection(disable).first {
      throw UsageError("'\(both.rawValue)' cannot be both enabled and disabled")
    }
    let name = PoolPlace.mappedName(arguments.positionals[0])
    let manager = try PoolSites(arguments, console).site(of: name).manager
    try manager.changeFeatures(
      manager.pool(name), enable: enable,
      disable: disable, lowWaterBlocks: arguments.number("low-water"))
    return ExitStatus.ok.rawValue
  }

  private static func option(_ name: String, _ help: String) -> OptionSpec {
    OptionSpec(name, value: .required(placeholder: "LIST", .list(features)), help: help)
  }

  /// Options, operands, help and exit statuses of the command.
  static let spec = CommandSpec.livePoolVerb(
    "features", summary: "change features of an active pool",
    description: [
      """
      The features are those of the kernel's target: \(features.joined(separator: ", ")). \
      ignore_discard can only be chosen when a pool is activated.
      """
    ],
    options: [
      option("enable", "Features to switch on, separated by commas."),
      option("disable", "Features to switch off, separated by commas."),
      OptionSpec(
        "low-water", value: .required(placeholder: "BLOCKS", .number),
        help: "Free data blocks at which the pool raises an event."),
    ],
    operands: [.activePool],
    examples: [
      ("$ pool --enable error_if_no_space", "Let writes fail when the pool is full."),
      ("$ pool --disable read_only", "Make a read-only pool writable again."),
    ],
    seeAlso: ["dmthin-pool-activate", "dmthin-pool-status"])
}
