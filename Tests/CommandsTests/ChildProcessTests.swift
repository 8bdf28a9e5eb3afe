import TestSupport
import Testing

@Suite("Programs that tests run")
struct ChildProcessTests {
  @Test("a program that does not end is killed after its time limit")
  func limit() {
    #expect(throws: NoEnd.self) {
      try run(["/bin/sleep", "3600"], limit: 0.2)
    }
  }
}
