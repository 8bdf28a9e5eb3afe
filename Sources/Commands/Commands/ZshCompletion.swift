extension CommandSpec {
  /// A zsh completion for the command under its field name.
  var zshCompletion: String {
    "#compdef \(fieldName)\n# Completion of \(fieldName); generated.\n\(zshArguments)"
  }

  /// A call of zsh's `_arguments` that knows options, their values and operands.
  fileprivate var zshArguments: String {
    var specs = visibleOptions.flatMap(zshOptions)
    let verbs = verbNames
    for (index, positional) in positionals.enumerated() {
      let place = positional.isRepeatable ? "*" : "\(index + 1)"
      let colons = positional.isRequired || positional.isRepeatable ? ":" : "::"
      let action =
        index == 0 && !verbs.isEmpty ? "(\(verbs.joined(separator: " ")))" : "_files"
      specs.append("\(place)\(colons)\(zshEscaped(positional.name)):\(action)")
    }
    return (["_arguments -s -S"] + specs.map(zshQuoted)).joined(separator: " \\\n  ") + "\n"
  }

  /// The specifications of an option for `_arguments`, one for each of its names.
  private func zshOptions(_ option: OptionSpec) -> [String] {
    let names = (option.short.map { ["-\($0)"] } ?? []) + ["--\(option.name)"]
    let before = option.isRepeatable ? "*" : "(\(names.joined(separator: " ")))"
    let summary = "[\(zshEscaped(option.summary))]"
    func value(_ placeholder: String, _ kind: ValueKind) -> String {
      ":\(zshEscaped(placeholder)):\(zshAction(kind))"
    }
    return names.map { name in
      let isLong = name.hasPrefix("--")
      return switch option.value {
      case .flag:
        "\(before)\(name)\(summary)"
      case .required(let placeholder, let kind):
        "\(before)\(name)\(isLong ? "=" : "+")\(summary)\(value(placeholder, kind))"
      case .optional(let placeholder, let kind):
        "\(before)\(name)\(isLong ? "=-" : "-")\(summary):\(value(placeholder, kind))"
      }
    }
  }

  private func zshAction(_ kind: ValueKind) -> String {
    switch kind {
    case .path: "_files"
    case .choice(let words): "(\(words.joined(separator: " ")))"
    case .list(let words): "_sequence compadd - \(words.joined(separator: " "))"
    case .text, .number, .checked: " "
    }
  }
}

extension CommandTree {
  /// A zsh completion for the program.
  var zshCompletion: String {
    var text = "#compdef \(program)\n# Completion of \(program); generated.\n"
    for command in commands {
      text += "\(function(of: command))() {\n\(command.zshArguments)}\n"
    }
    var arms = single.map { command in
      "    \(command.name)|\(command.fieldName)) "
        + "shift words; ((CURRENT -= 1)); \(function(of: command)) ;;\n"
    }
    for group in groups {
      let verbs = group.members.map { ($0.verb, $0.spec.summary) }
      arms.append("    \(group.name))\n      if ((CURRENT == 3)); then\n")
      arms.append("        \(zshList("verb", verbs))\n        return\n      fi\n")
      arms.append("      case $words[3] in\n")
      arms += group.members.map {
        "        \($0.verb)) shift 2 words; ((CURRENT -= 2)); \(function(of: $0.spec)) ;;\n"
      }
      arms.append("      esac ;;\n")
    }
    return text + """
      \(function)() {
        if ((CURRENT == 2)) || { ((CURRENT == 3)) && [[ $words[2] == help ]]; }; then
          \(zshList("command", firstWords.map { ($0.name, $0.summary) }))
          return
        fi
        case $words[2] in
      \(arms.joined())  esac
      }
      \(function) "$@"

      """
  }

  /// Commands that show words, each with what it does.
  private func zshList(_ what: String, _ words: [(String, String)]) -> String {
    let items = words.map { zshQuoted("\($0.0):\($0.1)") }.joined(separator: " ")
    return "local -a list=(\(items)); _describe -t \(what)s \(what) list"
  }
}

/// Text in which `_arguments` finds none of its own marks.
private func zshEscaped(_ text: String) -> String {
  text.reduce(into: "") { result, character in
    if "\\[]:".contains(character) { result += "\\" }
    result.append(character)
  }
}

private func zshQuoted(_ text: String) -> String { "'\(substitute("'", by: "'\\''", in: text))'" }
