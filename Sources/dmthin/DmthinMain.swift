import Commands
import Glibc
import KernelDeviceMapper

/// Everything, in one program.
@main
struct DmthinMain {
  static func main() {
    let console = Console()
    console.makeDeviceMapper = { KernelDeviceMapper() }
    exit(
      runMain(
        arguments: CommandLine.arguments,
        commands: Dispatcher.metadataCommands + Dispatcher.poolCommands, console: console))
  }
}
