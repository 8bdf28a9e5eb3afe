import CDMThin
import Commands
import Glibc
import KernelDeviceMapper
import ServerProgram

/// All commands, in one program.
@main
struct DmthinMain {
  static func main() {
    dmthin_begin_program()
    let console = Console()
    console.makeDeviceMapper = { KernelDeviceMapper() }
    console.serverProgram = "/proc/self/exe"
    exit(
      runMain(
        arguments: CommandLine.arguments,
        commands: Dispatcher.metadataCommands + Dispatcher.deviceMapperCommands
          + Dispatcher.poolCommands + [ServeLauncher.self], console: console))
  }
}
