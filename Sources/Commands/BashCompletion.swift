extension CommandSpec {
  /// A bash completion for the command under its traditional name, like `thin_check`.
  public var bashCompletion: String {
    """
    # Completion of \(fieldName); generated.
    \(completionFunction(named: "_\(fieldName)"))
    complete -o filenames -F _\(fieldName) \(fieldName)

    """
  }

  fileprivate func completionFunction(named function: String) -> String {
    var arms = ""
    for option in visibleOptions {
      guard case .required(_, let kind) = option.value else { continue }
      let names = ["--\(option.name)"] + (option.short.map { ["-\($0)"] } ?? [])
      arms += "    \(names.joined(separator: "|"))) \(completion(of: kind)) return ;;\n"
    }
    let options = visibleOptions.map { "--\($0.name)" }.joined(separator: " ")
    let operand = positionals.isEmpty ? "COMPREPLY=()" : completion(of: .path)
    return """
      \(function)() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
        case $prev in
      \(arms)    *) ;;
        esac
        case $cur in
          -*) mapfile -t COMPREPLY < <(compgen -W '\(options)' -- "$cur") ;;
          *) \(operand) ;;
        esac
      }
      """
  }

  private func completion(of kind: ValueKind) -> String {
    switch kind {
    case .path:
      #"mapfile -t COMPREPLY < <(compgen -f -- "$cur");"#
    case .choice(let words), .list(let words):
      #"mapfile -t COMPREPLY < <(compgen -W '\#(words.joined(separator: " "))' -- "$cur");"#
    case .text, .number, .checked:
      "COMPREPLY=();"
    }
  }
}

/// A bash completion for a program that holds several commands.
func bashCompletion(program: String, commands: [CommandSpec]) -> String {
  let function = "_" + substitute("-", by: "_", in: program)
  var text = "# Completion of \(program); generated.\n"
  func own(_ command: CommandSpec) -> String {
    "\(function)_\(substitute(" ", by: "_", in: command.name))"
  }
  for command in commands { text += command.completionFunction(named: own(command)) + "\n" }
  let single = commands.filter { $0.group == nil }
  var arms = single.map { "    \($0.name)|\($0.fieldName)) \(own($0)) ;;" }
  var groups: [String] = []
  for group in commands.compactMap(\.group) where !groups.contains(group) { groups.append(group) }
  for group in groups {
    let members = commands.filter { $0.group == group }
    let verbs = members.map { String($0.name.dropFirst(group.count + 1)) }
    arms.append("    \(group))")
    arms.append("      if ((COMP_CWORD == 2)); then")
    arms.append(
      #"        mapfile -t COMPREPLY < <(compgen -W '\#(verbs.joined(separator: " "))' -- "$cur")"#)
    arms.append("        return")
    arms.append("      fi")
    arms.append("      case ${COMP_WORDS[2]} in")
    for (verb, member) in zip(verbs, members) { arms.append("        \(verb)) \(own(member)) ;;") }
    arms.append("        *) COMPREPLY=() ;;")
    arms.append("      esac ;;")
  }
  let names = (single.map(\.name) + groups + ["help", "--help", "--version"])
    .joined(separator: " ")
  return text + """
    \(function)() {
      local cur=${COMP_WORDS[COMP_CWORD]}
      if ((COMP_CWORD == 1)) || { ((COMP_CWORD == 2)) && [[ ${COMP_WORDS[1]} == help ]]; }; then
        mapfile -t COMPREPLY < <(compgen -W '\(names)' -- "$cur")
        return
      fi
      case ${COMP_WORDS[1]} in
    \(arms.joined(separator: "\n"))
        *) COMPREPLY=() ;;
      esac
    }
    complete -o filenames -F \(function) \(program)

    """
}
