import Commands
import Glibc

/// The metadata tools, in one program.
@main
struct ThinToolsMain {
  static func main() {
    exit(runMain(arguments: CommandLine.arguments))
  }
}
