import BlockIO
import DeviceMapper
import Glibc
import PersistentData
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import Commands

@Suite struct SpecificationTests {
  @Test(
    "help, manual page and completion name every option, and no hidden one",
    arguments: NamedSpec.everything)
  func everyOptionIsDocumented(_ command: NamedSpec) {
    let spec = command.spec
    let help = spec.helpText(program: spec.fieldName)
    let man = spec.manPage
    for option in spec.options {
      let isShown = !option.isHidden
      #expect(help.contains("\(option.label)\n") == isShown, "\(option.label)")
      #expect(man.contains("\(roff(option.label))\\fR\n") == isShown, "\(option.label)")
      for shell in [Shell.bash, .zsh] {
        let words = spec.completion(for: shell).split { " '\n()[=*".contains($0) }
        #expect(words.contains("--\(option.name)") == isShown, "\(shell) \(option.label)")
      }
      let fish = spec.completion(for: .fish)
      #expect(fish.contains(" -l \(option.name) ") == isShown, "fish \(option.label)")
    }
    for positional in spec.positionals {
      #expect(help.contains("<\(positional.name)>\n"))
      #expect(man.contains(".I \(positional.name)\n"))
    }
  }

  @Test(
    "help has examples, exit statuses and no line over 80 columns", arguments: NamedSpec.everything)
  func helpTeaches(_ command: NamedSpec) {
    let spec = command.spec
    let help = spec.helpText(program: spec.fieldName)
    for part in [
      "\nUsage: \(spec.fieldName) ", "\nExamples:\n", "\nExit status:\n", "\nSee also: ",
    ] {
      #expect(help.contains(part), "\(part)")
    }
    let statuses = ExitStatus.allCases.filter { $0 != .leaks }.map(\.rawValue)
    let own = spec.onlyExitStatus.map(\.status)
    for status in own.isEmpty ? statuses : own { #expect(help.contains("\n  \(status) ")) }
    if !own.isEmpty { #expect(!help.contains("\n  64 ")) }
    for line in help.split(separator: "\n") where !line.hasPrefix("Usage:") {
      #expect(line.count <= 80, "\(line)")
    }
  }

  @Test(
    "option names are distinct, and conflicts name options that exist",
    arguments: NamedSpec.everything)
  func specificationIsSound(_ command: NamedSpec) {
    let spec = command.spec
    #expect(Set(spec.options.map(\.name)).count == spec.options.count)
    let shorts = spec.options.compactMap(\.short)
    #expect(Set(shorts).count == shorts.count)
    for option in spec.options {
      for conflict in option.conflicts { #expect(spec.option(named: conflict) != nil) }
      #expect(option.help.hasSuffix("."), "\(option.label)")
    }
  }

  @Test("help and manual page of dm list its verbs, with valid command lines")
  func dmIsDocumented() {
    let (help, man) = (DmCommand.spec.helpText(program: "dmthin dm"), DmCommand.spec.manPage)
    for verb in DmVerb.all {
      let names = verb.names.joined(separator: "|")
      #expect(help.contains("\n  \(names)"), "\(names)")
      #expect(man.contains("\\fB\(roff(names))"), "\(names)")
    }
    #expect(man.contains("dmthin dm create t0"))
    #expect(!man.contains(roff("dmthin-dm [OPTIONS]")) && !man.contains(roff("dmthin-dm create")))
  }

  @Test("sizes have one rule: 10G is 10 GiB, and multiples of 1000 are refused")
  func sizes() {
    var count = 0
    for spec in Dispatcher.poolCommands.map({ $0.spec }) {
      for option in spec.options {
        guard case .required(let placeholder, .checked(let fault)) = option.value,
          placeholder.contains("SIZE")
        else { continue }
        let prefix = placeholder == "SIZE" ? "" : "v=1:"
        #expect(fault("\(prefix)10G") == nil, "\(spec.name) --\(option.name)")
        #expect(fault("\(prefix)10GB") != nil, "\(spec.name) --\(option.name)")
        #expect(option.help.hasSuffix(DeviceSize.rule), "\(spec.name) --\(option.name)")
        count += 1
      }
    }
    #expect(count > 3)
  }

  @Test("roff takes no character of the text for a command")
  func roffIsEscaped() {
    #expect(roff("-a \\b\n.c\n'd") == "\\-a \\eb\n\\&.c\n\\&'d")
  }

  @Test("damage never gives the status that lvm2 takes for a missing program")
  func statuses() {
    func system(_ operation: BlockIOError.Operation, _ code: Int32) -> ToolError.Cause {
      .system(BlockIOError(operation, path: "m", code: code))
    }
    let causes: [(ToolError.Cause, Int32)] = [
      (.damaged, 64), (.needsCheck, 64), (.invalidDump, 64), (.refused, 64),
      (.tree(TreeFault(.mappings, block: 1, .cycle)), 64), (.metadata(.noMetadataSnapshot), 64),
      (.block(1, .blockNumber(expected: 1, found: 2)), 64), (.pool(.notFound), 64),
      (.pool(.inconsistent("x")), 64), (.pool(.failed), 74),
      (.pool(.io(BlockIOError(.write, path: "m", code: EIO))), 74),
      (.notFound(.input), 66), (.unsuitable(.input), 66), (.notFound(.output), 73),
      (.unsuitable(.output), 73), (.outOfSpace, 73), (.precious, 73), (.unexpected, 74),
      (.inUse, 75),
      (.output(OutputError(.precious, "m")), 73), (.output(OutputError(.inUse, "m")), 75),
      (.output(OutputError(BlockIOError(.open, path: "m", code: ENOENT))), 73),
      (system(.open, ENOENT), 66), (system(.size, EIO), 66), (system(.open, EBUSY), 75),
      (system(.create, EROFS), 73), (system(.replace, EIO), 73), (system(.keep, ENOSPC), 73),
      (system(.read, EIO), 74), (system(.write, ENOSPC), 74), (system(.flush, EIO), 74),
      (system(.write, EPIPE), 64),
      (.command(code: EBUSY), 75), (.command(code: ENXIO), 66), (.command(code: EEXIST), 64),
      (.command(code: EUCLEAN), 64), (.command(code: EIO), 74),
    ]
    for (cause, status) in causes {
      #expect(ExitStatus(ToolError(cause, "m")).rawValue == status, "\(cause)")
    }
    #expect(ExitStatus.usage.rawValue == 2)
  }
}

@Suite struct CommandOptionTests {
  /// Options of thin_check, and the pairs of them that exclude each other.
  static let flags = [
    "--auto-repair", "--clear-needs-check-flag", "--ignore-non-fatal-errors", "--metadata-snap",
    "--override-mapping-root=1", "--override-details-root=1", "--quiet", "--super-block-only",
    "--skip-mappings", "--json", "--strict",
  ]
  static let excluded: [String: Set<String>] = [
    "--strict": ["--ignore-non-fatal-errors"],
    "--auto-repair": [
      "--ignore-non-fatal-errors", "--metadata-snap", "--override-mapping-root=1",
      "--override-details-root=1", "--super-block-only", "--skip-mappings",
    ],
    "--clear-needs-check-flag": [
      "--metadata-snap", "--override-mapping-root=1", "--override-details-root=1",
    ],
  ]

  @Test("thin_check refuses exactly the invalid pairs of options", arguments: flags)
  func conflictMatrix(_ one: String) {
    for other in Self.flags where other != one {
      let isExcluded =
        Self.excluded[one]?.contains(other) == true || Self.excluded[other]?.contains(one) == true
      let isRefused = (try? CheckCommand.spec.parse([one, other, "in"])) == nil
      #expect(isRefused == isExcluded, "\(one) \(other)")
    }
  }

  private func parsed(_ spec: CommandSpec, _ arguments: String...) throws -> ParsedArguments {
    guard case .run(let parsed) = try spec.parse(arguments) else { throw UsageError("nothing") }
    return parsed
  }

  @Test("thin_check's request has the values of the options")
  func checkRequest() throws {
    let plain = CheckRequest(try parsed(CheckCommand.spec, "", "-q", "in"))
    #expect(plain.input == "in" && plain.options == CheckOptions())
    let full = CheckRequest(
      try parsed(
        CheckCommand.spec, "--clear-needs-check-flag", "--skip-mappings", "--super-block-only",
        "--ignore-non-fatal-errors", "-v", "--io-engine", "async", "in")
    ).options
    #expect(full.clearNeedsCheck && full.skipMappings && full.superblockOnly)
    #expect(full.ignoreNonFatal && !full.metadataSnapshot)
    let roots = CheckRequest(
      try parsed(
        CheckCommand.spec, "-m", "--override-mapping-root", "7", "--override-details-root=8", "in")
    ).options
    #expect(roots.mappingRoot == 7 && roots.detailsRoot == 8 && roots.metadataSnapshot)
    #expect(CheckRequest(try parsed(CheckCommand.spec, "--auto-repair", "in")).options.autoRepair)
  }

  @Test("thin_dump's request has the values of the options")
  func dumpRequest() throws {
    let plain = DumpRequest(try parsed(DumpCommand.spec, "in"))
    #expect(plain.format == .xml && plain.output == nil && plain.deviceIDs == nil)
    #expect(plain.source == .current)
    let full = DumpRequest(
      try parsed(
        DumpCommand.spec, "-m=5", "-f", "human_readable", "-o", "out", "--dev-id", "3",
        "--dev-id", "1", "--data-block-size", "128", "--nr-data-blocks=9", "--transaction-id", "2",
        "--skip-mappings", "in"))
    #expect(full.source == .metadataSnapshotAt(5) && full.format == .humanReadable)
    #expect(full.deviceIDs == [3, 1] && full.output == "out" && full.skipMappings)
    let overrides = full.salvage.overrides
    #expect(overrides.dataBlockSectors == 128 && overrides.dataBlockCount == 9)
    #expect(overrides.transactionID == 2)
    #expect(plain.salvage == SalvageOptions())
    let salvage = DumpRequest(
      try parsed(DumpCommand.spec, "-r", "--prefer", "oldest", "--include-deleted", "in")
    ).salvage
    #expect(salvage.choice == .oldest && salvage.includesDeleted)
    for option in ["--prefer=oldest", "--include-deleted", "--generation=newest"] {
      #expect(runCommand("thin_dump", option, "/dev/null").errors.contains("goes with --repair"))
    }
    #expect(DumpRequest(try parsed(DumpCommand.spec, "-m", "in")).source == .metadataSnapshot)
    #expect(throws: UsageError.self) { try DumpCommand.spec.parse(["-r", "-m=5", "in"]) }
  }

  @Test("thin_restore's and thin_ls's requests have the values of the options")
  func otherRequests() throws {
    let restore = RestoreRequest(try parsed(RestoreCommand.spec, "-i", "a", "-o", "b", ""))
    #expect(restore.input == "a" && restore.output == "b")
    let ls = LsRequest(
      try parsed(LsCommand.spec, "-o", "DEV,HIGHEST_MAPPED", "--no-headers", "-m", "in"))
    #expect(ls.fields == [.device, .highestMapped] && !ls.hasHeaders)
    #expect(ls.source == .metadataSnapshot)
    #expect(LsRequest(try parsed(LsCommand.spec, "in")).fields == LsField.standard)
    for bad in ["", "DEV,", ",DEV", "dev", "DEV,FOO"] {
      #expect(throws: UsageError.self) { try LsCommand.spec.parse(["-o", bad, "in"]) }
    }
  }
}
