import PoolManager
import Testing

/// Programs that this one waits for.
@Suite struct SystemProgramTests {
  private func output(_ script: String, within milliseconds: Int = 60_000) -> String? {
    SystemProgram.output(of: ["/bin/sh", "-c", script], within: milliseconds)
  }

  @Test("the output of a program is returned, and nothing if it fails or does not exist")
  func output() {
    #expect(output("echo 7; echo 8") == "7\n8\n")
    #expect(output("echo 7; exit 1") == nil)
    #expect(output("echo 7; kill -9 $$") == nil)
    #expect(SystemProgram.output(of: ["/nonexistent/lvs"], within: 60_000) == nil)
  }

  @Test("a program with much output ends, and 4 KiB of it are kept")
  func muchOutput() {
    #expect(output("head -c 1000000 /dev/zero")?.utf8.count == 4096)
  }

  @Test(
    "a program that waits for ever is killed at its time limit",
    .timeLimit(.minutes(1)),
    arguments: ["exec sleep 3600", "exec sleep 3600 >/dev/null", "while :; do echo; done"])
  func endless(_ script: String) {
    #expect(output(script, within: 50) == nil)
  }
}
