/// A shell whose command lines can be completed.
public enum Shell: String, CaseIterable, Sendable {
  case bash, zsh, fish

  /// The name of the file that the shell looks for when it completes `program`.
  func fileName(of program: String) -> String {
    switch self {
    case .bash: program
    case .zsh: "_\(program)"
    case .fish: "\(program).fish"
    }
  }
}

extension CommandSpec {
  /// What `shell` reads to complete the command under its field name.
  public func completion(for shell: Shell) -> String {
    switch shell {
    case .bash: bashCompletion
    case .zsh: zshCompletion
    case .fish: fishCompletion
    }
  }

  /// Names of the command's own verbs, such as dmsetup's of `dmthin dm`.
  var verbNames: [String] {
    verbs.flatMap { verb in
      let names = verb.forms.first?.split(separator: " ").first ?? ""
      return names.split(separator: "|").map { String($0) }
    }
  }
}

extension OptionSpec {
  /// What a list of completions says of it: the first sentence of its help, without the full stop.
  var summary: String {
    var text = ""
    for character in help {
      if character == " ", text.last == "." { break }
      text.append(character)
    }
    return text.last == "." ? String(text.dropLast()) : text
  }
}

/// The commands of a program, as a completion offers them.
struct CommandTree {
  let program: String
  /// Commands of one word.
  let single: [CommandSpec]
  /// First words of commands of two, each with the second words and what those two mean.
  let groups: [(name: String, members: [(verb: String, spec: CommandSpec)])]

  init(program: String, commands: [CommandSpec]) {
    self.program = program
    single = commands.filter { $0.group == nil }
    var names: [String] = []
    for group in commands.compactMap(\.group) where !names.contains(group) { names.append(group) }
    groups = names.map { name in
      let members = commands.filter { $0.group == name }
      return (name, members.map { (String($0.name.dropFirst(name.count + 1)), $0) })
    }
  }

  var commands: [CommandSpec] { single + groups.flatMap { $0.members.map(\.spec) } }

  /// Every first word, with what it does.
  var firstWords: [(name: String, summary: String)] {
    single.map { ($0.name, $0.summary) }
      + groups.map { ($0.name, "commands for a \($0.name)") }
      + [("help", "explain a command")]
  }

  /// A name for the shell's function that completes `command`.
  func function(of command: CommandSpec) -> String {
    "\(function)_\(identifier(command.name))"
  }

  /// A name for the function that completes the program.
  var function: String { "_\(identifier(program))" }

  private func identifier(_ name: String) -> String {
    String(name.map { $0 == "-" || $0 == " " ? "_" : $0 })
  }

  /// What `shell` reads to complete the program.
  func completion(for shell: Shell) -> String {
    switch shell {
    case .bash: bashCompletion
    case .zsh: zshCompletion
    case .fish: fishCompletion
    }
  }
}
