extension CommandSpec {
  /// A bash completion for the command under its traditional name, like `thin_check`.
  var bashCompletion: String {
    """
    # Completion of \(fieldName); generated.
    \(bashFunction(named: "_\(fieldName)"))
    complete -o filenames -F _\(fieldName) \(fieldName)

    """
  }

  fileprivate func bashFunction(named function: String) -> String {
    var arms = ""
    for option in visibleOptions {
      guard case .required(_, let kind) = option.value else { continue }
      let names = ["--\(option.name)"] + (option.short.map { ["-\($0)"] } ?? [])
      arms += "    \(names.joined(separator: "|"))) \(bashWords(of: kind)); return ;;\n"
    }
    let options = visibleOptions.map { "--\($0.name)" }.joined(separator: " ")
    let operand = positionals.isEmpty ? "COMPREPLY=()" : bashWords(of: .path)
    // bash takes the = of --option=value for a word of its own.
    return """
      \(function)() {
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
        if [[ $cur == = ]]; then cur=''
        elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
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

  private func bashWords(of kind: ValueKind) -> String {
    switch kind {
    case .path:
      #"mapfile -t COMPREPLY < <(compgen -f -- "$cur")"#
    case .choice(let words):
      #"mapfile -t COMPREPLY < <(compgen -W '\#(words.joined(separator: " "))' -- "$cur")"#
    case .list(let words):
      #"mapfile -t COMPREPLY < <(compgen -P "${cur%"${cur##*,}"}" "#
        + #"-W '\#(words.joined(separator: " "))' -- "${cur##*,}")"#
    case .text, .number, .checked:
      "COMPREPLY=()"
    }
  }
}

extension CommandTree {
  /// A bash completion for the program.
  var bashCompletion: String {
    var text = "# Completion of \(program); generated.\n"
    for command in commands {
      text += command.bashFunction(named: function(of: command)) + "\n"
    }
    let names = (firstWords.map(\.name) + ["--help", "--version"]).joined(separator: " ")
    return text + """
      \(function)() {
        local cur=${COMP_WORDS[COMP_CWORD]}
        if ((COMP_CWORD == 1)) || { ((COMP_CWORD == 2)) && [[ ${COMP_WORDS[1]} == help ]]; }; then
          mapfile -t COMPREPLY < <(compgen -W '\(names)' -- "$cur")
          return
        fi
        case ${COMP_WORDS[1]} in
      \((single.map(bashArm) + groups.map(bashArm)).joined(separator: "\n"))
          *) COMPREPLY=() ;;
        esac
      }
      complete -o filenames -F \(function) \(program)

      """
  }

  private func bashArm(_ command: CommandSpec) -> String {
    let names = "    \(command.name)|\(command.fieldName))"
    let verbs = command.verbNames
    if verbs.isEmpty { return "\(names) \(function(of: command)) ;;" }
    return """
      \(names)
            if ((COMP_CWORD == 2)) && [[ $cur != -* ]]; then
              mapfile -t COMPREPLY < <(compgen -W '\(verbs.joined(separator: " "))' -- "$cur")
              return
            fi
            \(function(of: command)) ;;
      """
  }

  private func bashArm(
    _ group: (name: String, members: [(verb: String, spec: CommandSpec)])
  ) -> String {
    let verbs = group.members.map(\.verb).joined(separator: " ")
    let arms = group.members.map { "        \($0.verb)) \(function(of: $0.spec)) ;;\n" }
    return """
          \(group.name))
            if ((COMP_CWORD == 2)); then
              mapfile -t COMPREPLY < <(compgen -W '\(verbs)' -- "$cur")
              return
            fi
            case ${COMP_WORDS[2]} in
      \(arms.joined())        *) COMPREPLY=() ;;
            esac ;;
      """
  }
}
