import BlockServer
public import Commands
import DeviceMapper
import PoolManager
import PoolServer
import ServerProgram
import ThinTools

/// The commands of the server program.
public var serveCommands: [any Command.Type] { [ServeCommand.self] }

/// `dmthin serve`, as the server program does it.
public enum ServeCommand: Command {
  /// See `ServeSpec`.
  public static var spec: CommandSpec { ServeSpec.spec }

  /// Serves until a signal ends the process.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    console.isQuiet = arguments.has("quiet")
    let options = try options(arguments) { [unowned console] in console.warning($0) }
    try PoolServer(options) { [unowned console] in console.note($0) }.run()
    return ExitStatus.ok.rawValue
  }

  static func options(
    _ arguments: ParsedArguments, warn: (String) -> Void = { _ in }
  ) throws -> ServeOptions {
    var options = ServeOptions()
    options.source = try source(arguments)
    options.name = arguments.text("name") ?? options.name
    // They were validated when the command line was parsed.
    options.volumes = arguments.texts("volume").compactMap { try? VolumeSpec($0) }
    options.sockets = arguments.texts("socket")
    options.addresses = arguments.texts("listen")
    options.control = arguments.text("control")
    options.metrics = arguments.text("metrics")
    options.isReadOnly = arguments.has("read-only") || arguments.has("rescue")
    options.check = arguments.text("check").flatMap { MetadataCare(rawValue: $0) } ?? .auto
    options.tickets = arguments.text("tickets") ?? CleanTickets.usualFolder
    options.features = Set(
      (arguments.words("features") ?? []).compactMap { ThinPoolTarget.Feature(rawValue: $0) })
    options.lowWaterBlocks = arguments.number("low-water")
    options.noSpaceTimeoutSeconds =
      arguments.number("no-space-timeout") ?? options.noSpaceTimeoutSeconds
    options.metadataCacheBlocks =
      arguments.number("metadata-cache").map { Int(clamping: $0) * 256 }
      ?? options.metadataCacheBlocks
    options.spinMicroseconds = arguments.number("spin") ?? options.spinMicroseconds
    options.untilIdleSeconds = arguments.number("until-idle")
    options.limits.connections =
      arguments.text("connections").flatMap { Int($0) } ?? options.limits.connections
    guard options.setMemory(bytes: arguments.number("memory").map { Int(clamping: $0) << 20 })
    else {
      throw UsageError(
        "--memory is too little for that cache and so many connections",
        tip: "give at least \(options.memoryBytesMin >> 20)")
    }
    options.security = try security(arguments)
    options.security.warnings.forEach(warn)
    return options
  }

  private static func source(_ arguments: ParsedArguments) throws -> ServeOptions.Source {
    if arguments.has("rescue") { return .rescue(try rescue(arguments)) }
    if let option = (OptionSpec.rescue.map(\.name) + ["lost-as-zeroes"]).first(where: arguments.has)
    {
      throw UsageError("'--\(option)' is for --rescue")
    }
    if let tables = arguments.text("tables") { return .tables(tables) }
    switch (arguments.text("metadata"), arguments.text("data")) {
    case (let metadata?, let data?): return .devices(metadata: metadata, data: data)
    case (nil, nil):
      guard arguments.has("control") else {
        throw UsageError(
          "no pool: give --metadata and --data, or --tables",
          tip: "with --control alone the server starts empty, and pools are activated through it")
      }
      return .none
    default: throw UsageError("a pool has two devices: give both --metadata and --data")
    }
  }

  private static func rescue(_ arguments: ParsedArguments) throws -> RescueServing {
    guard let metadata = arguments.text("metadata"), let data = arguments.text("data") else {
      throw UsageError("a pool has two devices: give both --metadata and --data")
    }
    try InputChecks.requireInput(metadata)
    try InputChecks.requireInput(data)
    var serving = RescueServing(metadata: metadata, data: data)
    serving.metadataOffset = arguments.offset("metadata-offset")
    serving.dataOffset = arguments.offset("data-offset")
    serving.options = arguments.rescue
    serving.lostAsZeroes = arguments.has("lost-as-zeroes")
    return serving
  }

  private static func security(_ arguments: ParsedArguments) throws -> Security {
    let mode: Security.Mode = arguments.has("tls-required") ? .require : .allow
    do throws(TLSError) {
      if let keys = arguments.text("tls-psk") {
        return Security(mode, try TLSCredentials(sharedKeys: keys))
      }
      if let certificate = arguments.text("tls-certificate"), let key = arguments.text("tls-key") {
        let authority = arguments.text("tls-client-ca")
        return Security(
          mode,
          try TLSCredentials(certificate: certificate, key: key, clientAuthority: authority))
      }
    } catch {
      throw ToolError(.unsuitable(.input), error.description)
    }
    if let option = ["tls-certificate", "tls-key", "tls-client-ca", "tls-required"].first(
      where: arguments.has)
    {
      throw UsageError(
        "'--\(option)' is of no use alone: give --tls-certificate and --tls-key, or --tls-psk")
    }
    return .plain
  }
}
