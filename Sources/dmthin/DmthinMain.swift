import Commands
import Glibc

/// Everything, in one program.
@main
struct DmthinMain {
  static func main() {
    exit(
      runMain(
        arguments: CommandLine.arguments,
        commands: Dispatcher.metadataCommands + Dispatcher.poolCommands))
  }
}
