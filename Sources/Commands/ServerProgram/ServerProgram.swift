import CDMThin
public import Commands
import Glibc
import ThinTools

/// `dmthin serve` in the program `dmthin`: runs the server program in place of this one. That one alone is
/// linked to GnuTLS, whose loading takes longer than most commands of `dmthin` run.
public enum ServeLauncher: Command {
  /// See `ServeSpec`.
  public static var spec: CommandSpec { ServeSpec.spec }

  /// Does not return, unless the server program is not there.
  public static func run(_ arguments: ParsedArguments, console: Console) throws -> Int32 {
    let places = ServerProgram.places
    guard let path = places.first(where: { unsafe access($0, X_OK) == 0 }) else {
      throw ToolError(
        .unexpected,
        "the server program is missing, expected at \(places.joined(separator: " or ")): install "
          + "dmthin again")
    }
    let code = ServerProgram.execute(path, CommandLine.arguments)
    throw ToolError(.unexpected, unsafe "cannot run \(path): \(String(cString: strerror(code)))")
  }
}

/// The program `dmthin-server`.
enum ServerProgram {
  private static let name = "dmthin-server"

  /// Where it may be: beside `dmthin`, as it is built, or where it is installed.
  static var places: [String] {
    let own = unsafe realpath("/proc/self/exe", nil)
    defer { unsafe free(own) }
    let path = unsafe own.map { unsafe String(cString: $0) } ?? ""
    let folder = path.split(separator: "/", omittingEmptySubsequences: false).dropLast()
    let prefix = folder.dropLast().joined(separator: "/")
    return ["\(folder.joined(separator: "/"))/\(name)", "\(prefix)/libexec/dmthin/\(name)"]
  }

  /// Runs it in place of this program; returns the error number if that fails.
  static func execute(_ path: String, _ arguments: [String]) -> Int32 {
    // It is to find out by itself which descriptors it was not given.
    for descriptor in Int32(0)...2 where dmthin_was_closed(descriptor) != 0 { close(descriptor) }
    var words = unsafe arguments.map { unsafe strdup($0) } + [nil]
    defer { unsafe words.forEach { word in unsafe free(word) } }
    unsafe execv(path, &words)
    return errno
  }
}
