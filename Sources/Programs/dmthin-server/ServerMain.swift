import CDMThin
import Commands
import Glibc
import ServeCommands

/// What `dmthin serve` runs, with the same arguments.
@main
struct ServerMain {
  static func main() {
    dmthin_begin_program()
    exit(runMain(arguments: CommandLine.arguments, commands: serveCommands))
  }
}
