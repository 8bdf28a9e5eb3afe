import CDMThin
import Commands
import Glibc

/// The metadata tools, in one program.
@main
struct ThinToolsMain {
  static func main() {
    dmthin_begin_program()
    exit(runMain(arguments: CommandLine.arguments))
  }
}
