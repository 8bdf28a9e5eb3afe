import Simulation
import TestSupport
import Testing

@testable import Commands

private let spec = CommandSpec(
  name: "try", fieldName: "thin_try", summary: "try",
  options: [
    OptionSpec("quiet", short: "q", help: "-"),
    OptionSpec("verbose", short: "v", help: "-", isRepeatable: true, isHidden: true),
    OptionSpec("output", short: "o", value: .required(placeholder: "FILE", .path), help: "-"),
    OptionSpec("count", value: .required(placeholder: "N", .number32), help: "-"),
    OptionSpec("snap", short: "m", value: .optional(placeholder: "BLOCK", .number), help: "-"),
    OptionSpec(
      "id", value: .required(placeholder: "ID", .number), help: "-", isRepeatable: true),
    OptionSpec("kind", value: .required(placeholder: "K", .choice(["a", "b"])), help: "-"),
    OptionSpec("loud", help: "-", conflicts: ["quiet", "snap"]),
  ],
  positionals: [
    PositionalSpec("INPUT", help: "-"), PositionalSpec("X", help: "-", isRequired: false),
  ]
)

private func parse(_ arguments: String...) throws -> ParsedArguments {
  guard case .run(let parsed) = try spec.parse(arguments) else {
    throw UsageError("not a command line to run")
  }
  return parsed
}

private func failure(_ arguments: String...) -> String? {
  do {
    _ = try spec.parse(arguments)
    return nil
  } catch {
    return error.message
  }
}

@Suite struct OptionParserTests {
  @Test("a value follows its option, or is joined with = or to the letter")
  func values() throws {
    #expect(try parse("--output", "f", "in").text("output") == "f")
    #expect(try parse("--output=f", "in").text("output") == "f")
    #expect(try parse("-o", "f", "in").text("output") == "f")
    #expect(try parse("-of", "in").text("output") == "f")
    #expect(try parse("-o=f", "in").text("output") == "f")
    #expect(try parse("-o", "-", "in").text("output") == "-")
    #expect(try parse("--output=", "in").text("output") == "")
    #expect(try parse("--output==f", "in").text("output") == "=f")
    #expect(try parse("in", "-qo", "f").text("output") == "f")
  }

  @Test("an optional value is joined, or follows if the command has enough other operands")
  func optionalValues() throws {
    for line in [
      ["-m=5", "in", "x"], ["--snap=5", "in", "x"], ["-qm=5", "in", "x"], ["in", "-m=5", "x"],
      ["-m5", "in", "x"], ["-qm5", "in", "x"], ["-m", "5", "in", "x"], ["--snap", "5", "in", "x"],
      ["in", "x", "-m", "5"], ["in", "-m", "5", "x"], ["in", "x", "--snap", "5"],
      ["-qm", "5", "in", "x"], ["-m", "5", "--", "in", "x"], ["-m", "5", "", "in", "x"],
    ] {
      guard case .run(let parsed) = try spec.parse(line) else { continue }
      #expect(parsed.number("snap") == 5, "\(line)")
      #expect(parsed.positionals == ["in", "x"], "\(line)")
    }
    // If there are no more operands than the command takes, a number is a file.
    for line in [["-m", "5"], ["-m", "5", "x"], ["-m", "--", "5", "x"], ["-m", "5", "", "x"]] {
      guard case .run(let parsed) = try spec.parse(line) else { continue }
      #expect(parsed.has("snap") && parsed.number("snap") == nil, "\(line)")
      #expect(parsed.positionals.first == "5", "\(line)")
    }
    let numbers = try parse("6", "-m", "5", "x")
    #expect(numbers.number("snap") == 5 && numbers.positionals == ["6", "x"])
    let cluster = try parse("-mqo", "f", "in")
    #expect(cluster.has("snap") && cluster.has("quiet") && cluster.text("output") == "f")
    // A value that does not follow at once, or is invalid, is one operand too many.
    #expect(failure("-mq", "5", "in", "x") == "unexpected argument 'x' found")
    #expect(failure("-m", "--", "5", "in", "x") == "unexpected argument 'x' found")
    #expect(failure("-m", "in", "x", "5") == "unexpected argument '5' found")
    #expect(failure("-m5x", "in") == "unexpected argument '-5' found")
    #expect(failure("-m=", "in")?.hasPrefix("invalid value '' for '--snap[=<BLOCK>]'") == true)
    #expect(failure("-m", "5", "-m", "6", "in", "x")?.hasSuffix("multiple times") == true)
  }

  @Test("ten thousand generated command lines have the same meaning in every spelling")
  func generated() throws {
    var random = SplitMix64(seed: seed())
    let words = [
      "-q", "-v", "-m", "-o", "-h", "-V", "-x", "-", "--", "", "5", "in", "f", "-qm", "-mq", "-m5",
      "-m=7", "-of", "-o=f", "-qo", "--quiet", "--snap", "--snap=3", "--snap=x", "--count",
      "--count=9",
      "--id", "--id=4", "--kind", "--kind=a", "--loud", "--output=f", "--qu", "--quiet=1", "é",
      "-é",
      "9999999999999999999999", "-5", "--=", "=",
    ]
    for _ in 0..<10_000 {
      let line = (0..<Int.random(in: 0...7, using: &random)).map { _ in
        words[Int.random(in: 0..<words.count, using: &random)]
      }
      guard case .run(let parsed)? = try? spec.parse(line) else { continue }
      #expect(parsed.positionals.count <= 2, "\(line)")
      #expect(!parsed.positionals.isEmpty, "\(line)")
      // In one canonical spelling, with every value joined, the meaning is the same.
      var canonical: [String] = []
      for option in spec.options where parsed.has(option.name) {
        let values = parsed.texts(option.name)
        canonical += values.isEmpty ? ["--\(option.name)"] : values.map { "--\(option.name)=\($0)" }
      }
      guard case .run(let again)? = try? spec.parse(canonical + ["--"] + parsed.positionals) else {
        Issue.record("\(line): \(canonical) is refused")
        continue
      }
      #expect(again.positionals == parsed.positionals, "\(line)")
      for option in spec.options {
        #expect(again.has(option.name) == parsed.has(option.name), "\(line)")
        #expect(again.texts(option.name) == parsed.texts(option.name), "\(line)")
      }
    }
  }

  @Test("options and operands mix, and everything after -- is an operand")
  func operands() throws {
    let mixed = try parse("in", "-q", "x", "--count", "3")
    #expect(mixed.positionals == ["in", "x"] && mixed.has("quiet") && mixed.number("count") == 3)
    #expect(try parse("-q", "--", "--count", "-o").positionals == ["--count", "-o"])
    #expect(try parse("--", "--").positionals == ["--"])
    #expect(try parse("-").positionals == ["-"])
  }

  @Test("empty operands count only if there is room for them")
  func emptyOperands() throws {
    #expect(try parse("").positionals == [""])
    #expect(try parse("", "in", "x").positionals == ["in", "x"])
    #expect(try parse("in", "x", "").positionals == ["in", "x"])
    #expect(failure("in", "x", "y") == "unexpected argument 'y' found")
  }

  @Test("long names are not shortened, and a similar one is suggested")
  func abbreviations() {
    for name in ["--quie", "--q", "--outpu=f", "--cou", "--o"] {
      let bare = name.split(separator: "=")[0]
      #expect(failure(name, "in") == "unexpected argument '\(bare)' found")
    }
    #expect(
      throws: UsageError(
        "unexpected argument '--qiet' found",
        tip: "a similar argument exists: '--quiet'")
    ) { try spec.parse(["--qiet"]) }
  }

  @Test("unknown options are named")
  func unknown() {
    #expect(failure("--foo", "in") == "unexpected argument '--foo' found")
    #expect(failure("-x", "in") == "unexpected argument '-x' found")
    #expect(failure("-qx", "in") == "unexpected argument '-x' found")
    #expect(failure("-é", "in") == "unexpected argument '-é' found")
    #expect(failure("--=x", "in") == "unexpected argument '--' found")
  }

  @Test("a missing, unexpected or invalid value is reported with the option's name")
  func badValues() {
    #expect(
      failure("--output") == "a value is required for '--output <FILE>' but none was supplied")
    #expect(failure("-o") == "a value is required for '--output <FILE>' but none was supplied")
    #expect(failure("-o", "-q", "in")?.hasPrefix("a value is required for '--output") == true)
    #expect(failure("--count", "--", "in")?.hasPrefix("a value is required for '--count") == true)
    #expect(failure("--quiet=1")?.hasPrefix("unexpected value '1' for '--quiet' found") == true)
    for bad in ["x", "", "1.5", "0x10", "-1", "4294967296", " 1"] {
      #expect(
        failure("--count=\(bad)", "in")?.hasPrefix("invalid value '\(bad)' for '--count <N>': ")
          == true)
    }
    #expect(failure("--count=4294967295", "in") == nil)
    #expect(failure("--kind=c") == "invalid value 'c' for '--kind <K>'\n  [possible values: a, b]")
  }

  @Test("only repeatable options may be repeated")
  func repetition() throws {
    #expect(
      failure("-q", "--quiet", "in") == "the argument '--quiet' cannot be used multiple times")
    #expect(failure("-mm", "in")?.hasSuffix("cannot be used multiple times") == true)
    #expect(try parse("--id", "1", "--id=2", "in").numbers("id") == [1, 2])
    #expect(try parse("-vv", "in").has("verbose"))
  }

  @Test("options that exclude each other are refused in either order")
  func conflicts() {
    #expect(failure("--loud", "-q", "in") == "the argument '--loud' cannot be used with '--quiet'")
    #expect(failure("-q", "--loud", "in") == "the argument '--quiet' cannot be used with '--loud'")
    #expect(
      failure("--loud", "-m=1", "-q", "in")
        == "the argument '--loud' cannot be used with:\n  --snap[=<BLOCK>]\n  --quiet")
  }

  @Test("missing required arguments are listed")
  func required() {
    #expect(failure() == "the following required arguments were not provided:\n  <INPUT>")
    #expect(
      runCommand("thin_restore").errors
        == """
        error: the following required arguments were not provided:
          --input <FILE>
          --output <FILE>

        Usage: thin_restore [OPTIONS] --input <FILE> --output <FILE>

        For more information, try '--help'.

        """)
  }

  @Test("help takes precedence over later arguments, and the version stands alone")
  func helpAndVersion() throws {
    for line in [["-h"], ["--help", "--foo"], ["-qh", "a", "b", "c"]] {
      guard case .help = try spec.parse(line) else {
        Issue.record("no help: \(line)")
        continue
      }
    }
    guard case .version = try spec.parse(["-V"]) else { throw UsageError("no version") }
    for line in [["-V", "-q"], ["-qV"], ["--version", "in"]] {
      #expect(throws: UsageError.self) { try spec.parse(line) }
    }
  }

  @Test("concurrent parsing does not mix up command lines")
  func concurrency() async throws {
    await withTaskGroup(of: Bool.self) { group in
      for index in 0..<200 {
        group.addTask {
          let line = ["--count", "\(index)", "-m=\(index)", "in\(index)", "-qo", "f\(index)"]
          guard case .run(let parsed) = try? spec.parse(line) else { return false }
          return parsed.number("count") == UInt64(index) && parsed.number("snap") == UInt64(index)
            && parsed.text("output") == "f\(index)" && parsed.positionals == ["in\(index)"]
        }
      }
      for await isRight in group { #expect(isRight) }
    }
  }
}
