import BlockIO
import Glibc
import PersistentData
import PoolManager
import ThinFormat
import ThinMetadata
import ThinTools

/// A number after the pool: its name, its maximum, and whether it may be a range `FIRST-LAST`. A
/// range counts as two numbers, and so does a single number in its place.
struct PoolOperand {
  var name: String
  var max: UInt64
  var takesRange = false
}

/// A verb of `dmthin pool` that makes one change to an active or inactive pool.
protocol PoolVerb: Command {
  /// Arguments after the pool, in order.
  static var operands: [PoolOperand] { get }
  /// Makes the change to metadata at rest; the commit follows.
  static func change(_ pool: PoolMetadata, _ numbers: [UInt64]) throws(PoolError)
  /// Makes the change to an active pool.
  static func change(
    _ manager: PoolManager, _ pool: LivePool, _ numbers: [UInt64], _ arguments: ParsedArguments,
    _ console: Console
  ) throws
  /// Makes the same change to the records of external origins.
  static func change(_ origins: inout OriginRecords.Origins, _ numbers: [UInt64])
  /// Options that apply to active pools only.
  static var liveOptions: [String] { get }
}

extension PoolVerb {
  static var liveOptions: [String] { [] }
  static func change(_ origins: inout OriginRecords.Origins, _ numbers: [UInt64]) {}

  static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let numbers = try zip(operands, arguments.positionals.dropFirst()).flatMap { operand, text in
      try operand.takesRange
        ? idRange(text, operand.name, max: operand.max)
        : [number(text, operand.name, max: operand.max)]
    }
    switch try PoolPlace(arguments, console: console) {
    case .live(let manager, let pool):
      try change(manager, pool, numbers, arguments, console)
    case .offline(let path):
      if let option = liveOptions.first(where: { arguments.has($0) }) {
        throw UsageError("'--\(option)' is for active pools, and \(path) is metadata at rest")
      }
      try PoolAtRest.change(path) { pool throws(PoolError) in try change(pool, numbers) }
      PoolAtRest.recordOrigins(path, console) { change(&$0, numbers) }
    }
    return ExitStatus.ok.rawValue
  }
}

extension PoolAtRest {
  /// Makes a change in one transaction, after checking what kind of file was given.
  static func change(_ path: String, _ body: (PoolMetadata) throws(PoolError) -> Void) throws {
    try InputChecks.requireMetadata(path)
    try InputChecks.explaining(path) { try PoolAtRest(path).change(body) }
  }

  /// Records which devices have external origins; warns if that fails.
  static func recordOrigins(
    _ path: String, _ console: Console, _ change: (inout OriginRecords.Origins) -> Void
  ) {
    do throws(ToolError) {
      try OriginRecords(metadata: path)?.update(change)
    } catch {
      console.warning(error.message)
    }
  }
}

extension CommandSpec {
  static let poolMetadata = PositionalSpec(
    "METADATA", help: "Metadata device of a pool that is not active, or a file with its metadata.")

  /// A verb of `dmthin pool` that works on active pools and on metadata at rest.
  static func poolVerb(
    _ verb: String, summary: String, description: String, options: [OptionSpec] = [],
    operands: [PositionalSpec] = [], examples: [(line: String, purpose: String)],
    seeAlso: [String]
  ) -> CommandSpec {
    CommandSpec(
      name: "pool \(verb)", fieldName: "dmthin-pool-\(verb)", summary: summary,
      description: [
        description,
        """
        An active pool is changed through device-mapper. The metadata of a pool that is not active \
        is changed as the kernel would: the device is opened exclusively, a file is locked, and \
        the change is one transaction, made as a whole or not at all.
        """,
      ],
      options: options + [.poolBackend, .control, .quiet], positionals: [.pool] + operands,
      examples: examples,
      exitStatus: [
        (
          .damaged,
          "The pool does not allow the operation, its metadata is damaged, or needs a check."
        )
      ], seeAlso: seeAlso)
  }

  /// A verb of `dmthin pool` for active pools and devices.
  static func livePoolVerb(
    _ verb: String, summary: String, description: [String], options: [OptionSpec] = [],
    operands: [PositionalSpec], examples: [(line: String, purpose: String)],
    backend: [OptionSpec] = [.liveBackend, .control],
    statuses: [(status: ExitStatus, meaning: String)] = [
      (.damaged, "The pool or the kernel does not allow the operation."),
      (.input, "A named device does not exist."),
    ], seeAlso: [String]
  ) -> CommandSpec {
    CommandSpec(
      name: "pool \(verb)", fieldName: "dmthin-pool-\(verb)", summary: summary,
      description: description, options: options + backend + [.quiet],
      positionals: operands,
      examples: examples, exitStatus: statuses, seeAlso: seeAlso)
  }
}
