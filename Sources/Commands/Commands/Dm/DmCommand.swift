import BlockIO
import DeviceMapper
import ThinTools

/// `dmthin dm`, also called as dmsetup: works on device-mapper devices with dmsetup's verbs.
///
/// Programs match dmsetup's output, its error lines and its status, which is 1 for every failure.
/// So these are the same here, and differ from the other commands.
public enum DmCommand: Command, RawCommand {
  /// The program that it replaces.
  public static let names = ["dmsetup"]

  /// For help, manual page and completion; the parser is `DmArguments`.
  public static let spec = CommandSpec(
    name: "dm", fieldName: "dmthin-dm",
    summary: "makes, changes and shows devices of device-mapper, as dmsetup does",
    description: [
      "Takes dmsetup's verbs and options, in any order, prints what dmsetup prints, and ends with "
        + "status 0 or 1 as dmsetup does. Through a link of the name dmsetup it stands in for it.",
      "A DEVICE is a name, or an option -u UUID, or -j MAJOR -m MINOR, in its place; the path of its "
        + "node will do too. A table is lines of START LENGTH TYPE PARAMETERS..., in sectors of 512 "
        + "bytes. A device has a table in use, and one that waits in the inactive slot: load puts one "
        + "there, resume makes it the one in use.",
      """
      The environment is dmsetup's: DM_DEV_DIR, an absolute path, is the folder of nodes in place \
      of /dev, with device-mapper's in its folder mapper; DM_UDEV_COOKIE is a cookie as with \
      --udevcookie; DM_DEFAULT_NAME_MANGLING_MODE is a mode as with --manglename; with \
      DM_DISABLE_UDEV set, udev is not waited for and nodes are made here. dmthin pool takes them \
      too, except for the cookie.
      """,
      "Where it is not dmsetup: there is no stats; summaries and lists of fields are worded in other "
        + "ways; info -c -o all shows all fields of devices; what -vv adds goes to the error output.",
    ],
    options: (DmOption.all + DmOption.own).compactMap { option in
      guard let help = option.help, !["help", "version"].contains(option.name) else { return nil }
      return OptionSpec(
        option.name, short: option.letters.first,
        value: option.value.map { .required(placeholder: $0, .text) } ?? .flag, help: help)
    },
    positionals: [
      PositionalSpec("VERB", help: "What to do: one of those above."),
      PositionalSpec(
        "ARGUMENT", help: "To which devices, and with what.", isRequired: false,
        isRepeatable: true),
    ],
    examples: [
      ("$ create t0 --table '0 2048 zero'", "Make a device of 1 MiB that reads as zeros."),
      ("$ info -c -o name,open --noheadings --separator ' '", "List devices for a script."),
      ("$ ls --tree -o ascii", "Show which devices stand on which."),
      ("$ message vg-pool-tpool 0 reserve_metadata_snap", "Hold a metadata snapshot of a pool."),
    ],
    onlyExitStatus: [
      (0, "Success; also if remove_all leaves devices that are open."),
      (
        1,
        "Any failure, an invalid command line included. The error output "
          + "has the reason, and \"Command failed.\" as its last line."
      ),
    ],
    verbs: DmVerb.all.map { verb in
      let forms = verb.synopsis.split(separator: "\n", omittingEmptySubsequences: false).map {
        "\(verb.names.joined(separator: "|"))\($0.isEmpty ? "" : " ")\($0)"
      }
      return (forms, verb.summary + ".")
    },
    seeAlso: ["dmsetup"])

  /// Never called: `run(raw:program:console:)` is.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    throw UsageError("'dm' takes dmsetup's command lines")
  }

  /// Runs a command line.
  public static func run(raw arguments: [String], program: String, console: Console) -> Int32 {
    // Checked before the command line: dmsetup reports an invalid DM_DEV_DIR before anything else.
    guard (try? DeviceFolder.fromEnvironment()) != nil else {
      for line in DmFailure.invalidDeviceFolder.lines { console.note(line) }
      return 1
    }
    let parsed: DmArguments
    do throws(DmArguments.Fault) {
      parsed = try DmArguments(arguments)
    } catch {
      console.note("\(program): \(error.message)")
      console.note("Couldn't process command line.")
      return 1
    }
    if program != "dmsetup", parsed.has("help"), parsed.operands.isEmpty {
      do {
        try console.output.write(spec.helpText(program: program))
        return 0
      } catch {
        return console.status(for: error).rawValue
      }
    }
    let session = DmSession(parsed, program: program, console: console)
    do {
      try session.run()
      return 0
    } catch let failure as DmFailure {
      for line in failure.lines { console.note(line) }
      return 1
    } catch let error as DeviceMapperError {
      console.note(error.description)
      console.note("Command failed.")
      return 1
    } catch {
      return console.status(for: error) == .ok ? 0 : 1
    }
  }
}

/// Why a verb stopped, in lines for the error output.
struct DmFailure: Error {
  let lines: [String]

  /// The operation failed.
  static func failed(_ lines: String...) -> DmFailure {
    DmFailure(lines: lines + ["Command failed."])
  }

  /// DM_DEV_DIR is not an absolute path.
  static let invalidDeviceFolder = DmFailure(
    lines: ["Invalid DM_DEV_DIR environment variable value."])

  /// The command line is invalid.
  static func commandLine(_ lines: String...) -> DmFailure {
    DmFailure(lines: lines + ["Couldn't process command line."])
  }
}
