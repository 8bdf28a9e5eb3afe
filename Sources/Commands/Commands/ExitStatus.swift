public import BlockIO
import Glibc
import PersistentData
public import ThinTools

/// Exit statuses of every command. Status 2 is reserved for invalid command lines: lvm2 takes it
/// for a missing program and activates the pool anyway, so damage never returns it.
public enum ExitStatus: Int32, CaseIterable, Sendable {
  case ok = 0
  case usage = 2
  case damaged = 64
  case leaks = 65
  case input = 66
  case internalError = 70
  case output = 73
  case inputOutput = 74
  case busy = 75

  /// The status that a program ends with after `error`.
  public init(_ error: ToolError) {
    self =
      switch error.cause {
      case .system(let error): ExitStatus(error)
      case .output(let error):
        switch error.reason {
        case .inUse: .busy
        case .precious, .failed: .output
        }
      case .pool(.io(let error)): ExitStatus(error)
      case .pool(.failed): .inputOutput
      case .metadata, .tree, .block, .pool, .damaged, .needsCheck, .invalidDump, .refused: .damaged
      case .command(let code): ExitStatus(commandCode: code)
      case .notFound(.input), .unsuitable(.input): .input
      case .notFound(.output), .unsuitable(.output), .outOfSpace, .precious: .output
      case .inUse: .busy
      case .unexpected: .inputOutput
      }
  }

  /// The status after a failed system call. If the reader of the output has gone away, the status
  /// is the one for damage, because the output is incomplete.
  public init(_ error: BlockIOError) {
    self =
      switch error.operation {
      case .open where error.isInUse: .busy
      case .write where error.isReaderGone: .damaged
      case .find, .open, .size: .input
      case .create, .replace, .keep: .output
      case .read, .write, .flush, .allocate, .reserve, .use: .inputOutput
      }
  }

  /// The status after a device-mapper command that failed with an error number.
  private init(commandCode code: Int32) {
    self =
      switch code {
      case EBUSY: .busy
      case ENXIO, ENODEV, ENOENT: .input
      case EUCLEAN, EINVAL, EEXIST, ENODATA, EOPNOTSUPP, EILSEQ, ENOTBLK, EPERM, ENOSPC: .damaged
      default: .inputOutput
      }
  }

  /// What the status means, for help.
  public var meaning: String {
    switch self {
    case .ok: "Success."
    case .usage: "The command line is invalid; nothing was done."
    case .damaged: "The metadata is damaged, or does not allow the operation."
    case .leaks: "Leaked blocks were found, and no damage."
    case .input: "The input is missing, cannot be opened, or is not what the command reads."
    case .internalError: "An internal error of the program."
    case .output:
      "The output is missing, cannot be created, is too small, or must not be overwritten."
    case .inputOutput: "Reading or writing failed."
    case .busy: "The device is in use."
    }
  }
}
