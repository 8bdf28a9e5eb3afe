import BlockIO
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata
import ThinTools

/// A verb of `dmthin pool` that changes the metadata of an inactive pool in one transaction.
protocol PoolVerb: Command {
  /// Arguments after the metadata, in order: what each is called, and the largest it can be.
  static var operands: [(name: String, max: UInt64)] { get }
  /// Makes the change; the commit follows.
  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError)
}

extension PoolVerb {
  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let path = arguments.positionals[0]
    let numbers = try zip(operands, arguments.positionals.dropFirst()).map { operand, text in
      guard let number = UInt64(text), number <= operand.max else {
        throw UsageError(
          "invalid value '\(text)' for '<\(operand.name)>': expected a whole number from 0 to "
            + "\(operand.max)")
      }
      return number
    }
    try InputChecks.requireMetadata(path)
    try InputChecks.explaining(path) {
      let device = try InactiveMetadata.open(path)
      do throws(PoolError) {
        let pool = try PoolMetadata.open(device)
        try InactiveMetadata.requireSound(pool, path)
        try change(pool, numbers)
        try pool.commit()
      } catch {
        throw ToolError(error)
      }
    }
    return ExitStatus.ok.rawValue
  }
}

/// The metadata device or file of a pool that is not active.
enum InactiveMetadata {
  /// Opens it so that nobody else does: a device exclusively, a file with a lock.
  static func open(_ path: String) throws(ToolError) -> FileDevice {
    let device: FileDevice
    do throws(BlockIOError) {
      device = try FileDevice(path: path, access: .readWrite, exclusive: true)
    } catch {
      throw ToolError(error)
    }
    guard !device.isBlockDevice, let descriptor = device.descriptor else { return device }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let code = errno
      if code == EWOULDBLOCK {
        throw ToolError(.busy, "cannot open \(path): another program has locked it")
      }
      throw ToolError(.inputOutput, "cannot lock \(path): \(String(cString: strerror(code)))")
    }
    return device
  }

  /// Refuses metadata that asks for a check, or that is larger than its device.
  static func requireSound(_ pool: PoolMetadata, _ path: String) throws(PoolError) {
    guard !pool.superblock.needsCheck else {
      throw .invalid(
        "\(path): the needs-check flag is set; run thin_check --auto-repair \(path) first")
    }
    let present = pool.device.byteCount / UInt64(Limits.blockBytes)
    guard pool.metadataBlockCount <= present else {
      throw .invalid(
        "\(path): the pool's metadata has \(pool.metadataBlockCount) blocks of 4096 bytes, the "
          + "device only \(present)")
    }
  }
}

extension ToolError {
  /// What a pool refused, or failed to do.
  init(_ error: PoolError) {
    switch error {
    case .io(let error), .block(_, .io(let error)): self.init(error)
    case .block, .inconsistent:
      self.init(.damaged, "\(error); run thin_check to see what is wrong")
    case .metadataFull, .dataFull, .notFound, .exists, .busy, .invalid:
      self.init(.request, "\(error)")
    case .failed: self.init(.inputOutput, "\(error)")
    }
  }
}

extension CommandSpec {
  static let poolMetadata = PositionalSpec(
    "METADATA", help: "Metadata device of a pool that is not active, or a file with its metadata.")

  /// A verb of `dmthin pool`.
  static func poolVerb(
    _ verb: String, summary: String, description: String,
    promise: String = "The change is one transaction: whatever happens, it is made as a whole or "
      + "not at all.", options: [OptionSpec] = [],
    operands: [PositionalSpec] = [], example: String, purpose: String,
    statuses: [(status: ExitStatus, meaning: String)] = [], seeAlso: [String]
  ) -> CommandSpec {
    CommandSpec(
      name: "pool \(verb)", fieldName: "dmthin-pool-\(verb)", summary: summary,
      description: [
        description,
        "The pool must not be active: the device is opened exclusively, a file is locked. "
          + promise,
      ],
      options: options + [.quiet], positionals: [poolMetadata] + operands,
      examples: [(example, purpose)],
      exitStatus: statuses.isEmpty
        ? [
          (
            .damaged,
            "The metadata is damaged, needs a check first, or does not allow what was asked."
          )
        ] : statuses,
      seeAlso: seeAlso)
  }
}
