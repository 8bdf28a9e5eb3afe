extension CommandSpec {
  /// The manual page, section 8, in roff.
  public var manPage: String {
    var page = manHeader(name: fieldName, summary: summary)
    page += ".SH SYNOPSIS\n"
    if let ownProgram { page += ".B \(roff(ownProgram))\n\(roff(usage))\n.PP\n" }
    page += ".B dmthin \(roff(name))\n\(roff(usage))\n"
    page += ".SH DESCRIPTION\n" + description.map(manParagraph).joined(separator: ".PP\n")
    if !verbs.isEmpty { page += ".SH VERBS\n" }
    for verb in verbs {
      page += ".TP\n" + verb.forms.map { "\\fB\(roff($0))\\fR\n" }.joined(separator: ".TQ\n")
      page += "\(roff(verb.help))\n"
    }
    page += ".SH OPTIONS\n"
    for positional in positionals {
      page += ".TP\n.I \(roff(positional.name))\n\(roff(positional.help))\n"
    }
    for option in visibleOptions {
      let short = option.short.map { "\\-\($0)\\fR, \\fB" } ?? ""
      page += ".TP\n\\fB\(short)\(roff(option.label))\\fR\n\(roff(option.fullHelp))\n"
    }
    page += ".SH EXIT STATUS\n"
    for (status, meaning) in exitStatuses {
      page += ".TP\n.B \(status)\n\(roff(meaning))\n"
    }
    if !examples.isEmpty { page += ".SH EXAMPLES\n" }
    for example in examples {
      let line = substitute("$", by: ownProgram ?? "dmthin \(name)", in: example.line)
      page += ".PP\n\(roff(example.purpose))\n.PP\n.RS 4\n.nf\n\(roff(line))\n.fi\n.RE\n"
    }
    let others = seeAlso + ["dmthin"]
    return page + manSeeAlso(others)
  }
}

/// The manual page of a program that holds several commands.
func manPage(program: String, commands: [CommandSpec]) -> String {
  var page = manHeader(name: program, summary: Dispatcher.summary)
  page += ".SH SYNOPSIS\n.B \(roff(program))\n\\fICOMMAND\\fR [OPTIONS] ...\n"
  page += ".PP\n.B \(roff(program)) help\n\\fICOMMAND\\fR\n"
  page += ".SH DESCRIPTION\n\(roff(Dispatcher.explanation))\n.SH COMMANDS\n"
  for command in commands {
    page += ".TP\n.B \(roff(command.name))\n"
    page += "\(roff(command.summary)): see \\fB\(roff(command.fieldName))\\fR(8)\n"
  }
  page += ".SH EXIT STATUS\n"
  for status in ExitStatus.allCases {
    page += ".TP\n.B \(status.rawValue)\n\(roff(status.meaning))\n"
  }
  return page + manSeeAlso(commands.map(\.fieldName))
}

private func manHeader(name: String, summary: String) -> String {
  """
  .TH \(roff(name.uppercased())) 8 "" "dmthin \(Version.text)" "System Administration"
  .SH NAME
  \(roff(name)) \\- \(roff(summary))

  """
}

private func manSeeAlso(_ names: [String]) -> String {
  ".SH SEE ALSO\n"
    + names.map { "\\fB\(roff($0))\\fR(8)" }.joined(separator: ",\n") + "\n"
}

private func manParagraph(_ text: String) -> String {
  text.split(separator: "\n").map { roff(String($0)) }.joined(separator: "\n.br\n") + "\n"
}

/// Escapes text for roff, which then prints it unchanged.
func roff(_ text: String) -> String {
  var result = ""
  for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
    if !result.isEmpty { result += "\n" }
    if line.hasPrefix(".") || line.hasPrefix("'") { result += "\\&" }
    for character in line {
      switch character {
      case "\\": result += "\\e"
      case "-": result += "\\-"
      default: result.append(character)
      }
    }
  }
  return result
}
