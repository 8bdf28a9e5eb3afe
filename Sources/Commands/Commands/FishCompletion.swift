extension CommandSpec {
  /// A fish completion for the command under its field name.
  var fishCompletion: String {
    "# Completion of \(fieldName); generated.\n"
      + fishLines(program: fieldName, condition: nil)
  }

  /// Lines that tell fish of options and operands.
  /// - Parameter condition: a command that has to succeed for the lines to hold.
  fileprivate func fishLines(program: String, condition: String?) -> String {
    let start =
      "complete -c \(program)" + (condition.map { " -n \(fishQuoted($0))" } ?? "")
    var lines = positionals.isEmpty ? ["\(start) -f"] : ["\(start) -F"]
    if !verbNames.isEmpty {
      lines.append("\(start) -a \(fishQuoted(verbNames.joined(separator: " ")))")
    }
    for option in visibleOptions {
      let short = option.short.map { " -s \($0)" } ?? ""
      var value = ""
      if case .required(_, let kind) = option.value { value = fishValue(kind) }
      lines.append(
        "\(start)\(short) -l \(option.name)\(value) -d \(fishQuoted(option.summary))")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  private func fishValue(_ kind: ValueKind) -> String {
    switch kind {
    case .path: " -r -F"
    case .choice(let words): " -x -a \(fishQuoted(words.joined(separator: " ")))"
    case .list(let words):
      " -x -a \(fishQuoted("(__fish_append , \(words.joined(separator: " ")))"))"
    case .text, .number, .checked: " -x"
    }
  }
}

extension CommandTree {
  /// A fish completion for the program.
  var fishCompletion: String {
    let after = "_\(function)_after", next = "_\(function)_next"
    var text = """
      # Completion of \(program); generated.
      # The words that follow the program begin with those given; or are those, and the next is due.
      function \(after)
        set -l words (commandline -opc)
        test (count $words) -gt (count $argv); or return 1
        test (count $argv) -eq 0; and return 0
        set -l last (math (count $argv) + 1)
        test "$words[2..$last]" = "$argv"
      end
      function \(next)
        test (count (commandline -opc)) -eq (math (count $argv) + 1); and \(after) $argv
      end
      complete -c \(program) -f

      """
    func offer(_ words: [(String, String)], after condition: String) {
      for (word, summary) in words {
        text += "complete -c \(program) -n \(fishQuoted(condition)) -a \(word) "
        text += "-d \(fishQuoted(summary))\n"
      }
    }
    let words = firstWords.map { ($0.name, $0.summary) }
    offer(words, after: next)
    offer(words, after: "\(next) help")
    for group in groups {
      let verbs = group.members.map { ($0.verb, $0.spec.summary) }
      offer(verbs, after: "\(next) \(group.name)")
      offer(verbs, after: "\(next) help \(group.name)")
    }
    for command in commands {
      text += command.fishLines(program: program, condition: "\(after) \(command.name)")
    }
    return text
  }
}

private func fishQuoted(_ text: String) -> String {
  "'\(substitute("'", by: "\\'", in: substitute("\\", by: "\\\\", in: text)))'"
}
