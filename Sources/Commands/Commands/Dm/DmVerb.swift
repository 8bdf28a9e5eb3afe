/// A verb of `dmthin dm`: its operands, help and implementation.
struct DmVerb: Sendable {
  /// The implementation.
  typealias Action = @Sendable (DmSession, [String]) throws -> Void

  /// Its names; help shows the first.
  let names: [String]
  /// The arguments in the usage line.
  let synopsis: String
  /// One line, without a full stop.
  let summary: String
  /// The number of operands.
  let operands: ClosedRange<Int>
  /// Whether the verb runs once per operand.
  let repeats: Bool
  /// The implementation.
  let action: Action

  init(
    _ names: String..., synopsis: String, summary: String, operands: ClosedRange<Int>,
    repeats: Bool = false, action: @escaping Action
  ) {
    self.names = names
    self.synopsis = synopsis
    self.summary = summary
    self.operands = operands
    self.repeats = repeats
    self.action = action
  }

  private static let any = 0...Int.max

  static let all: [DmVerb] = [
    DmVerb(
      "help", synopsis: "[-c]", summary: "Explains the verbs, and with -c the fields",
      operands: any
    ) { try $0.help($1) },
    DmVerb(
      "create",
      synopsis: "NAME [-u UUID] [-j MAJOR -m MINOR] [-n | --table TABLE | FILE]\n"
        + "--concise [DEVICES]",
      summary: "Makes a device, with the table given, or else read from standard input",
      operands: 0...2
    ) { try $0.create($1) },
    DmVerb(
      "load", "reload", synopsis: "DEVICE [--table TABLE | FILE]",
      summary: "Puts a table into the inactive slot", operands: 0...2
    ) { try $0.load($1) },
    DmVerb(
      "resume", synopsis: "[--noflush] [--nolockfs] DEVICE...",
      summary: "Makes the inactive table live, if there is one, and resumes I/O",
      operands: any, repeats: true
    ) { try $0.resume($1) },
    DmVerb(
      "suspend", synopsis: "[--noflush] [--nolockfs] DEVICE...", summary: "Suspends I/O",
      operands: any, repeats: true
    ) { try $0.suspend($1) },
    DmVerb(
      "clear", synopsis: "DEVICE...", summary: "Drops the inactive table", operands: any,
      repeats: true
    ) { try $0.clear($1) },
    DmVerb(
      "remove", synopsis: "[--deferred] [-f] [--retry] DEVICE...", summary: "Removes a device",
      operands: any, repeats: true
    ) { try $0.remove($1) },
    DmVerb(
      "remove_all", synopsis: "[-f] [--deferred]",
      summary: "Removes every device that is not open", operands: 0...0
    ) { session, _ in try session.removeAll() },
    DmVerb(
      "wipe_table", synopsis: "[--noflush] [--nolockfs] DEVICE...",
      summary: "Replaces the table by one that fails all I/O", operands: any, repeats: true
    ) { try $0.wipeTable($1) },
    DmVerb(
      "rename", synopsis: "DEVICE [--setuuid] NEW", summary: "Gives a name, or a first uuid",
      operands: 1...2
    ) { try $0.rename($1) },
    DmVerb(
      "message", synopsis: "DEVICE SECTOR MESSAGE...",
      summary: "Sends a message to the target that holds the sector", operands: 2...Int.max
    ) { try $0.message($1) },
    DmVerb(
      "info", synopsis: "[-c [-o FIELDS] [-O FIELDS] [-S CONDITION]] [DEVICE...]",
      summary: "Shows the state of devices", operands: any, repeats: true
    ) { try $0.info($1) },
    DmVerb(
      "status", synopsis: "[--target TYPE] [--noflush] [DEVICE...]",
      summary: "Shows the status of targets", operands: any, repeats: true
    ) { try $0.status($1) },
    DmVerb(
      "table", synopsis: "[--target TYPE] [--concise] [--showkeys] [DEVICE...]",
      summary: "Shows tables", operands: any, repeats: true
    ) { try $0.table($1) },
    DmVerb(
      "deps", synopsis: "[-o devno|devname|blkdevname] [DEVICE...]",
      summary: "Shows the devices that a table uses", operands: any, repeats: true
    ) { try $0.dependencies($1) },
    DmVerb(
      "ls", synopsis: "[--target TYPE] [--exec COMMAND] [-o OPTIONS] [--tree]",
      summary: "Lists devices", operands: 0...0
    ) { session, _ in try session.list() },
    DmVerb(
      "wait", synopsis: "DEVICE [EVENT]", summary: "Waits until the event number changes",
      operands: 0...2
    ) { try $0.wait($1) },
    DmVerb(
      "mknodes", synopsis: "[DEVICE...]", summary: "Repairs the nodes in /dev/mapper",
      operands: any, repeats: true
    ) { try $0.makeNodes($1) },
    DmVerb(
      "mangle", synopsis: "[DEVICE...]",
      summary: "Stores names as --manglename says, with bytes that udev does not allow as \\xHH",
      operands: any, repeats: true
    ) { try $0.mangle($1) },
    DmVerb(
      "measure", synopsis: "[DEVICE...]",
      summary: "Shows what targets report to the kernel's measurement architecture (IMA)",
      operands: any, repeats: true
    ) { try $0.measure($1) },
    DmVerb(
      "setgeometry", synopsis: "DEVICE CYLINDERS HEADS SECTORS START",
      summary: "Sets the geometry that the device reports", operands: 5...5
    ) { try $0.setGeometry($1) },
    DmVerb(
      "udevcreatecookie", synopsis: "",
      summary: "Makes a cookie to gather udev's events under, for --udevcookie", operands: 0...0
    ) { session, _ in try session.createCookie() },
    DmVerb(
      "udevreleasecookie", synopsis: "[COOKIE]",
      summary: "Waits until udev has handled the events gathered under a cookie", operands: 0...1
    ) { try $0.releaseCookie($1) },
    DmVerb(
      "udevcomplete", synopsis: "COOKIE",
      summary: "Reports to a cookie that an event has been handled; for udev's rules",
      operands: 1...1
    ) { try $0.completeCookie($1) },
    DmVerb(
      "udevcomplete_all", synopsis: "[-y] [MINUTES]",
      summary: "Removes all cookies, or those not used for so long; waiting commands continue",
      operands: 0...1
    ) { try $0.completeAllCookies($1) },
    DmVerb(
      "udevflags", synopsis: "COOKIE", summary: "Shows the flags of a cookie for udev's rules",
      operands: 1...1
    ) { try $0.showCookieFlags($1) },
    DmVerb(
      "udevcookies", synopsis: "", summary: "Lists cookies", operands: 0...0
    ) { session, _ in try session.listCookies() },
    DmVerb(
      "targets", synopsis: "", summary: "Lists target types", operands: 0...0
    ) { session, _ in try session.targets() },
    DmVerb(
      "target-version", synopsis: "[TYPE...]",
      summary: "Shows the version of target types, loading their modules", operands: any,
      repeats: true
    ) { try $0.targetVersion($1) },
    DmVerb(
      "version", synopsis: "", summary: "Shows the versions of library and driver",
      operands: 0...0
    ) { session, _ in try session.version() },
    DmVerb(
      "splitname", synopsis: "NAME [SUBSYSTEM]",
      summary: "Splits the name of a logical volume's device into its parts", operands: 1...2
    ) { try $0.splitName($1) },
  ]

  /// The verb of this name.
  static func named(_ name: String) -> DmVerb? { all.first { $0.names.contains(name) } }
}
