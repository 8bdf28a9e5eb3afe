/// An option of `dmthin dm`. The set is dmsetup's, so that the same abbreviations are unambiguous.
struct DmOption: Sendable {
  /// Long name, without dashes.
  let name: String
  /// One-letter names.
  let letters: [Character]
  /// The value's name in help; nil for an option without value.
  let value: String?
  /// A sentence for help; nil for options that are recognised and refused.
  let help: String?

  init(
    _ name: String, _ letters: Character..., value: String? = nil, help: String? = nil
  ) {
    self.name = name
    self.letters = letters
    self.value = value
    self.help = help
  }

  /// In dmsetup's order, which shows in the message for an ambiguous abbreviation.
  static let all: [DmOption] = [
    DmOption("readonly", "r", help: "Loads tables that refuse writes."),
    DmOption("alias", value: "NAME"), DmOption("alldevices"), DmOption("allprograms"),
    DmOption("allregions"), DmOption("areas", value: "NUMBER"),
    DmOption("areasize", value: "SIZE"), DmOption("bounds", value: "LIST"),
    DmOption("checks", help: "Has the library check more than the driver needs."),
    DmOption("clear"),
    DmOption("columns", "c", "C", help: "Shows a table of fields."),
    DmOption("concise", help: "Takes or shows devices as name,uuid,minor,flags,table;..."),
    DmOption("count", value: "NUMBER", help: "Repeats the report this often; 0 for ever."),
    DmOption("deferred", help: "Removes open devices when they are closed."),
    DmOption(
      "select", "S", value: "CONDITION",
      help: "Shows devices that match this condition, like open>0 or name=~^vg."),
    DmOption("exec", value: "COMMAND", help: "Runs this for each device, with its node's path."),
    DmOption("filemap"), DmOption("follow", value: "MODE"),
    DmOption("force", "f", help: "Replaces tables by one that fails all I/O, where that helps."),
    DmOption("foreground"),
    DmOption("gid", "G", value: "GID", help: "Group of a new node."),
    DmOption("group", value: "NAME"), DmOption("groupid", value: "NUMBER"),
    DmOption("help", "h", help: "Prints a summary."),
    DmOption("histogram"),
    DmOption("inactive", help: "Asks about inactive tables instead of live ones."),
    DmOption("interval", value: "SECONDS", help: "Time between two reports."),
    DmOption("length", value: "SIZE"),
    DmOption(
      "manglename", value: "MODE",
      help: "How bytes that udev does not allow in names are stored: auto, hex or none."),
    DmOption("major", "j", value: "MAJOR", help: "The device's, or a new device's, major number."),
    DmOption("minor", "m", value: "MINOR", help: "The device's, or a new device's, minor number."),
    DmOption("mode", "M", value: "OCTAL", help: "Permissions of a new node."),
    DmOption("nameprefixes", help: "Shows fields as DM_NAME='value'."),
    DmOption("nogroup"),
    DmOption(
      "noflush", help: "Suspends without waiting for queued I/O; asks pools without a commit."),
    DmOption("noheadings", help: "Leaves out the line of headings."),
    DmOption("nolockfs", help: "Suspends without freezing a file system."),
    DmOption("noopencount", help: "Does not ask for open counts."),
    DmOption("nosuffix"),
    DmOption("notable", "n", help: "Makes a device without a table."),
    DmOption("notimesuffix"),
    DmOption("udevcookie", value: "COOKIE", help: "Gathers udev's events under this cookie."),
    DmOption("nomonitor"),
    DmOption("noudevrules", help: "Makes nodes without udev's rules."),
    DmOption("noudevsync", help: "Does not wait for udev."),
    DmOption(
      "options", "o", value: "FIELDS",
      help:
        "What to show. With -c: fields, of which help -c has a list; a plus in front adds them to the "
        + "usual ones. Of devices in ls and deps: devno, devname or blkdevname. With --tree, any of "
        + "[no]device, blkdevname, active, open, rw, uuid, inverted, compact, notrunc, and one of "
        + "ascii, utf, vt100."),
    DmOption("precise"), DmOption("programid", value: "ID"), DmOption("raw"),
    DmOption(
      "readahead", value: "SECTORS", help: "How far ahead is read: SECTORS, +SECTORS, auto, none."),
    DmOption("regions", value: "LIST"), DmOption("regionid", value: "NUMBER"),
    DmOption("relative"),
    DmOption("retry", help: "Tries to remove an open device for five seconds."),
    DmOption("rows", help: "Shows a row for each field."),
    DmOption("segments"),
    DmOption("separator", value: "TEXT", help: "What stands between fields."),
    DmOption("setuuid", help: "Gives a uuid rather than a name."),
    DmOption("showkeys", help: "Shows keys of crypt and integrity targets."),
    DmOption("sort", "O", value: "FIELDS", help: "Sorts by these; a minus in front reverses."),
    DmOption("start", value: "SECTOR"),
    DmOption("table", value: "TABLE", help: "The table, instead of a file or standard input."),
    DmOption("target", value: "TYPE", help: "Only what concerns targets of this type."),
    DmOption("tree", help: "Shows which devices stand on which."),
    DmOption("uid", "U", value: "UID", help: "Owner of a new node."),
    DmOption("units", value: "UNITS"), DmOption("unbuffered", help: "Accepted and ignored."),
    DmOption("unquoted", help: "With --nameprefixes: no quotes around values."),
    DmOption("userdata", value: "DATA"),
    DmOption("uuid", "u", value: "UUID", help: "The device's, or a new device's, uuid."),
    DmOption(
      "verbose", "v",
      help: "Shows the device afterwards; given twice or more, also what the library does, on the "
        + "error output."),
    DmOption("verifyudev", help: "Makes nodes that udev left out."),
    DmOption("version", help: "Prints the versions of library and driver."),
    DmOption("yes", "y", help: "Answers the question of udevcomplete_all."),
    DmOption("addnodeonresume", help: "Makes the node when the device is resumed."),
    DmOption("addnodeoncreate", help: "Makes the node when the device is created."),
  ]
}

extension DmOption {
  /// Options that dmsetup does not have. They are accepted only in full, so that they do not make
  /// dmsetup's abbreviations ambiguous.
  static let own: [DmOption] = [
    DmOption(
      "backend", value: "WHERE",
      help: "Where the devices are: kernel, or userspace for those of a running dmthin serve."),
    DmOption(
      "control", value: "PATH",
      help: """
        The server's control socket; implies userspace, as a path in DMTHIN_CONTROL does. Default: \
        /run/dmthin/control.
        """),
  ]
}

/// A parsed command line of `dmthin dm`.
struct DmArguments {
  /// Values of options in order; an option without value has empty strings.
  private(set) var values: [String: [String]] = [:]
  /// The arguments that are not options, the verb first.
  private(set) var operands: [String] = []

  /// An invalid command line, in the words of getopt_long(3).
  struct Fault: Error {
    let message: String
  }

  /// Parses `arguments`; options and operands may come in any order, up to `--`.
  init(_ arguments: [String]) throws(Fault) {
    var rest = arguments[...]
    while let argument = rest.popFirst() {
      if argument == "--" {
        operands += rest
        return
      }
      if argument.hasPrefix("--") {
        try takeLong(argument.dropFirst(2), &rest)
      } else if argument.hasPrefix("-"), argument != "-" {
        try takeShort(argument.dropFirst(), &rest)
      } else {
        operands.append(argument)
      }
    }
  }

  private mutating func takeLong(_ text: Substring, _ rest: inout ArraySlice<String>)
    throws(Fault)
  {
    let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    let name = parts.first ?? ""
    let candidates = DmOption.all.filter { $0.name.hasPrefix(name) }
    let exact = (candidates + DmOption.own).first { $0.name == name }
    guard let option = exact ?? candidates.first else {
      throw Fault(message: "unrecognized option '--\(text)'")
    }
    if exact == nil, candidates.count > 1 {
      let list = candidates.map { " '--\($0.name)'" }.joined()
      throw Fault(message: "option '--\(text)' is ambiguous; possibilities:\(list)")
    }
    if option.value == nil {
      guard parts.count == 1 else {
        throw Fault(message: "option '--\(option.name)' doesn't allow an argument")
      }
      values[option.name, default: []].append("")
    } else if parts.count == 2 {
      values[option.name, default: []].append(String(parts[1]))
    } else {
      guard let value = rest.popFirst() else {
        throw Fault(message: "option '--\(option.name)' requires an argument")
      }
      values[option.name, default: []].append(value)
    }
  }

  private mutating func takeShort(_ text: Substring, _ rest: inout ArraySlice<String>)
    throws(Fault)
  {
    var text = text
    while let letter = text.popFirst() {
      guard let option = DmOption.all.first(where: { $0.letters.contains(letter) }) else {
        throw Fault(message: "invalid option -- '\(letter)'")
      }
      guard option.value != nil else {
        values[option.name, default: []].append("")
        continue
      }
      if !text.isEmpty {
        values[option.name, default: []].append(String(text))
        return
      }
      guard let value = rest.popFirst() else {
        throw Fault(message: "option requires an argument -- '\(letter)'")
      }
      values[option.name, default: []].append(value)
      return
    }
  }

  /// Whether the option was given.
  func has(_ name: String) -> Bool { values[name] != nil }
  /// How often it was given.
  func count(_ name: String) -> Int { values[name]?.count ?? 0 }
  /// Its last value.
  func text(_ name: String) -> String? { values[name]?.last }
  /// Its last value, parsed as C does: text that does not start with a number is 0.
  func number(_ name: String) -> Int? { text(name).map { leadingNumber($0) } }
}

/// The number at the start of a text, 0 if there is none; clamped to 32 bits.
func leadingNumber(_ text: String) -> Int {
  var rest = Substring(text).utf8.drop { $0 == 0x20 || (0x09...0x0d).contains($0) }
  let isNegative = rest.first == UInt8(ascii: "-")
  if isNegative || rest.first == UInt8(ascii: "+") { rest = rest.dropFirst() }
  let digits = rest.prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
  let value = digits.isEmpty ? 0 : Int(Substring(digits)) ?? .max
  return isNegative ? -min(value, Int(Int32.max)) : min(value, Int(UInt32.max))
}
