import BlockIO
import CDMThin
import Glibc
import ThinTools

/// The commands of a program, and how a command line selects one.
public struct Dispatcher {
  /// Commands over metadata, which run without device-mapper.
  public static var metadataCommands: [any Command.Type] {
    [
      CheckCommand.self, DumpCommand.self, RepairCommand.self, RestoreCommand.self,
      LsCommand.self, DeltaCommand.self, RmapCommand.self, PackCommand.self,
      UnpackCommand.self, MetadataSizeCommand.self, ExtractCommand.self,
    ]
  }

  /// `dmthin dm`.
  public static var deviceMapperCommands: [any Command.Type] { [DmCommand.self] }

  /// `dmthin pool`, over active pools and the metadata of inactive ones.
  public static var poolCommands: [any Command.Type] {
    [
      PoolCreateCommand.self, PoolActivateCommand.self, PoolDeactivateCommand.self,
      PoolStatusCommand.self, PoolEventsCommand.self, PoolDoctorCommand.self,
      PoolCreateThinCommand.self, PoolSnapshotCommand.self, PoolCreateSnapshotCommand.self,
      PoolActivateThinCommand.self, PoolResizeCommand.self, PoolDeleteCommand.self,
      PoolGrowCommand.self, PoolFeaturesCommand.self, PoolSetTransactionIDCommand.self,
      PoolReserveMetadataSnapshotCommand.self, PoolReleaseMetadataSnapshotCommand.self,
      PoolFormatCommand.self,
    ]
  }

  static let summary = "tools for the metadata of thin pools"
  static let explanation =
    "Each command with a longer name also works as a program of its own, through a link of that name."

  private let commands: [any Command.Type]

  /// A program that holds `commands`.
  public init(_ commands: [any Command.Type] = metadataCommands) { self.commands = commands }

  /// Runs the command selected by the program's name or else by the first argument.
  /// - Parameter arguments: the program's name and its arguments.
  /// - Returns: the exit status.
  public func run(_ arguments: [String], console: Console) -> Int32 {
    let program = arguments.first?.split(separator: "/").last.map { String($0) } ?? "dmthin"
    let rest = Array(arguments.dropFirst())
    if let command = command(ofProgram: program) {
      return run(command, program: program, rest, console)
    }
    return console.finish(runVerb(rest, program: program, console))
  }

  private func command(ofProgram name: String) -> (any Command.Type)? {
    if Self.isOwnName(name) { return nil }
    return wellKnown(name)
      ?? commands.first { $0.spec.fieldName == name || $0.raw?.names.contains(name) ?? false }
  }

  /// The well-known command of this name, if this program has it.
  private func wellKnown(_ name: String) -> (any Command.Type)? {
    Self.wellKnown(name).flatMap { known in commands.contains { $0 == known } ? known : nil }
  }

  private func command(_ verb: String) -> (any Command.Type)? {
    commands.first { $0.spec.name == verb || $0.spec.fieldName == verb }
  }

  /// The command selected by the first words, and the number of words that takes: one, or two if
  /// the first is a group's name.
  private func command(_ words: ArraySlice<String>) -> (command: any Command.Type, words: Int)? {
    guard let first = words.first else { return nil }
    if let second = words.dropFirst().first, let command = wellKnown("\(first) \(second)") {
      return (command, 2)
    }
    if let command = wellKnown(first) ?? command(first) { return (command, 1) }
    guard let second = words.dropFirst().first else { return nil }
    return command("\(first) \(second)").map { ($0, 2) }
  }

  private func isGroup(_ word: String) -> Bool { specs.contains { $0.group == word } }

  /// The error for words that select no command.
  private func unknown(_ words: ArraySlice<String>) -> UsageError {
    let first = words.first ?? ""
    guard isGroup(first) else {
      return UsageError("unknown command '\(first)'", tip: "commands are \(names)")
    }
    let verbs = specs.filter { $0.group == first }.map {
      String($0.name.dropFirst(first.count + 1))
    }
    let tip = "commands are \(verbs.joined(separator: ", "))"
    guard let second = words.dropFirst().first else {
      return UsageError("a command is missing after '\(first)'", tip: tip)
    }
    return UsageError("unknown command '\(first) \(second)'", tip: tip)
  }

  private func run(
    _ command: any Command.Type, program: String, _ arguments: [String], _ console: Console
  ) -> Int32 {
    if let command = command.raw {
      return console.finish(command.run(raw: arguments, program: program, console: console))
    }
    do {
      switch try command.spec.parse(arguments) {
      case .help: try console.output.write(command.spec.helpText(program: program))
      case .version: try console.output.write(Version.text + "\n")
      case .run(let parsed):
        do {
          return console.finish(try command.run(parsed, console: console))
        } catch let error where !(error is UsageError) {
          let hasJSON = command.spec.options.contains { $0.name == "json" }
          if hasJSON, parsed.has("json") { console.writeJSON(error) }
          throw error
        }
      }
      return console.finish(ExitStatus.ok.rawValue)
    } catch let error as UsageError {
      console.usageError(error, program: program, usage: command.spec.usage)
      return console.finish(ExitStatus.usage.rawValue)
    } catch {
      return console.finish(console.status(for: error).rawValue)
    }
  }

  private func runVerb(_ arguments: [String], program: String, _ console: Console) -> Int32 {
    let usage = "COMMAND [OPTIONS] ..."
    guard let verb = arguments.first else {
      console.usageError(
        UsageError("a command is missing", tip: "commands are \(names)"),
        program: program, usage: usage)
      return ExitStatus.usage.rawValue
    }
    do {
      if let (command, words) = command(arguments[...]) {
        let name = ([program] + arguments.prefix(words)).joined(separator: " ")
        return run(command, program: name, Array(arguments.dropFirst(words)), console)
      }
      switch (verb, arguments.count) {
      case ("help", 2) where isGroup(arguments[1]):
        try console.output.write(overview(program, group: arguments[1]))
      case ("help", 2...):
        guard let (command, words) = command(arguments.dropFirst()), words == arguments.count - 1
        else { throw unknown(arguments.dropFirst()) }
        let name = ([program] + arguments.dropFirst()).joined(separator: " ")
        try console.output.write(command.spec.helpText(program: name))
      case ("help", 1), ("-h", _), ("--help", _):
        try console.output.write(overview(program))
      case ("-V", 1), ("--version", 1):
        try console.output.write(Version.text + "\n")
      case ("generate-man", 2):
        try generateManPages(into: arguments[1], program: program)
      case ("generate-completions", 3):
        guard let shell = Shell(rawValue: arguments[1]) else {
          let shells = Shell.allCases.map(\.rawValue).joined(separator: ", ")
          throw UsageError("unknown shell '\(arguments[1])'", tip: "shells are \(shells)")
        }
        try generateCompletions(for: shell, into: arguments[2], program: program)
      case (_, 2) where isGroup(verb) && ["help", "-h", "--help"].contains(arguments[1]):
        try console.output.write(overview(program, group: verb))
      default:
        throw unknown(arguments[...])
      }
      return ExitStatus.ok.rawValue
    } catch let error as UsageError {
      console.usageError(error, program: program, usage: usage)
      return ExitStatus.usage.rawValue
    } catch {
      return console.status(for: error).rawValue
    }
  }

  private var specs: [CommandSpec] { commands.map { $0.spec } }

  private var names: String { specs.map(\.name).joined(separator: ", ") }

  /// - Parameter group: list only the commands of this group.
  private func overview(_ program: String, group: String? = nil) -> String {
    let specs = specs.filter { group == nil || $0.group == group }
    let width = specs.map(\.name.count).max() ?? 0
    let words = [program, group, "COMMAND [OPTIONS] ..."].compactMap(\.self)
    var text = "\(program): \(Self.summary)\n\nUsage: \(words.joined(separator: " "))\n\n"
    text += "Commands:\n"
    for spec in specs {
      let gap = String(repeating: " ", count: width - spec.name.count)
      let longName = spec.group == nil ? " (\(spec.fieldName))" : ""
      text += "  \(spec.name)\(gap)  \(spec.summary)\(longName)\n"
    }
    if group != nil { return text + "\n'\(program) help \(group ?? "") COMMAND' explains one.\n" }
    text += "\n" + wrap(Self.explanation, indent: 0)
    return text + "'\(program) help COMMAND' explains a command.\n"
  }

  /// Writes a manual page for each command, and one for the program.
  func generateManPages(into folder: String, program: String) throws(ToolError) {
    for spec in specs { try save(spec.manPage, as: "\(folder)/\(spec.fieldName).8") }
    try save(manPage(program: program, commands: specs), as: "\(folder)/\(program).8")
  }

  /// Writes a completion for each command that is a program, and one for the program itself.
  func generateCompletions(
    for shell: Shell, into folder: String, program: String
  ) throws(ToolError) {
    for spec in specs {
      guard let name = spec.ownProgram else { continue }
      try save(spec.completion(for: shell), as: "\(folder)/\(shell.fileName(of: name))")
    }
    let tree = CommandTree(program: program, commands: specs)
    try save(tree.completion(for: shell), as: "\(folder)/\(shell.fileName(of: program))")
  }

  private func save(_ text: String, as path: String) throws(ToolError) {
    let output = try InputChecks.textOutput(path)
    do throws(BlockIOError) {
      try output.sink.write(text)
      try output.commit()
    } catch {
      throw ToolError(error)
    }
  }
}

/// Runs a program that holds the metadata commands, and returns its exit status.
/// - Parameters:
///   - arguments: the program's name and its arguments.
///   - commands: those that the program has.
public func runMain(
  arguments: [String], commands: [any Command.Type] = Dispatcher.metadataCommands,
  console: Console = Console()
) -> Int32 {
  // SIGPIPE is ignored: a write reports EPIPE when the reader of the output has gone away.
  signal(SIGPIPE, SIG_IGN)
  dmthin_return_freed_memory()
  return Dispatcher(commands).run(arguments, console: console)
}
