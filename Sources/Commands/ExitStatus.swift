public import ThinTools

/// Exit statuses of every command. Status 2 is kept for command lines that make no sense: lvm2
/// takes it for a missing program and activates the pool all the same, so damage never gives it.
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

  /// The status for a tool's error.
  public init(_ kind: ToolError.Kind) {
    self =
      switch kind {
      case .damaged, .request, .closedPipe: .damaged
      case .input: .input
      case .output: .output
      case .inputOutput: .inputOutput
      case .busy: .busy
      }
  }

  /// What the status means, for help.
  public var meaning: String {
    switch self {
    case .ok: "Success."
    case .usage: "The command line makes no sense; nothing was done."
    case .damaged: "The metadata is damaged, or what was asked does not fit it."
    case .leaks: "Leaked blocks were found, and no damage."
    case .input: "The input is missing, cannot be opened, or is not what the command reads."
    case .internalError: "A fault of the program itself."
    case .output:
      "The output is missing, cannot be created, is too small, or is not to be overwritten."
    case .inputOutput: "Reading or writing failed."
    case .busy: "The device is in use."
    }
  }
}
