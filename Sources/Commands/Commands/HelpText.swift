extension CommandSpec {
  /// The output of `--help`, for a command called as `program`.
  public func helpText(program: String) -> String {
    var text = "\(program): \(summary)\n\nUsage: \(program) \(usage)\n"
    for paragraph in description {
      text += "\n" + wrap(paragraph, indent: 0)
    }
    if !verbs.isEmpty { text += "\nVerbs:\n" }
    for verb in verbs {
      text += verb.forms.map { "  \($0)\n" }.joined() + wrap(verb.help, indent: 10)
    }
    if !positionals.isEmpty {
      text += "\nArguments:\n"
      for positional in positionals {
        text += "  <\(positional.name)>\n" + wrap(positional.help, indent: 10)
      }
    }
    text += "\nOptions:\n"
    for option in visibleOptions {
      let short = option.short.map { "-\($0), " } ?? "    "
      text += "  \(short)\(option.label)\n" + wrap(option.fullHelp, indent: 10)
    }
    text += "\nExit status:\n"
    for (status, meaning) in exitStatuses {
      let number = String(status)
      let lines = wrap(meaning, indent: 6).dropFirst(6)
      text += "  \(number)\(String(repeating: " ", count: 4 - number.count))\(lines)"
    }
    if !examples.isEmpty {
      text += "\nExamples:\n"
      for example in examples {
        text += "  \(substitute("$", by: program, in: example.line))\n"
        text += wrap(example.purpose, indent: 10)
      }
    }
    if !seeAlso.isEmpty {
      text += "\n" + wrap("See also: \(seeAlso.joined(separator: ", ")).", indent: 0)
    }
    return text
  }

  /// Every status that the command may return, with its meaning.
  var exitStatuses: [(status: Int32, meaning: String)] {
    guard onlyExitStatus.isEmpty else { return onlyExitStatus }
    return ExitStatus.allCases.compactMap { status in
      if let own = exitStatus.first(where: { $0.status == status }) {
        return (status.rawValue, own.meaning)
      }
      // Only commands that look for leaks find them.
      return status == .leaks ? nil : (status.rawValue, status.meaning)
    }
  }
}

extension OptionSpec {
  /// The help, followed by further facts that the parser needs.
  var fullHelp: String {
    let others = conflicts.map { "--\($0)" }.joined(separator: ", ")
    return conflicts.isEmpty ? help : "\(help) Excludes \(others)."
  }
}

/// Breaks each line of `text` into lines of at most `width` columns, `indent` of them blank.
func wrap(_ text: String, indent: Int, width: Int = 80) -> String {
  let margin = String(repeating: " ", count: indent)
  var result = ""
  for paragraph in text.split(separator: "\n", omittingEmptySubsequences: false) {
    var line = margin
    for word in paragraph.split(separator: " ") {
      if line.count > indent && line.count + 1 + word.count > width {
        result += line + "\n"
        line = margin
      }
      line += line.count > indent ? " " + word : String(word)
    }
    result += line + "\n"
  }
  return result
}

/// `text` with every `old` replaced.
func substitute(_ old: Character, by new: String, in text: String) -> String {
  text.reduce(into: "") { $0 += $1 == old ? new : String($1) }
}
