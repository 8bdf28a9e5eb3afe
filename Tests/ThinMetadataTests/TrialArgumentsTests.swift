import Simulation
import Testing

@Suite struct TrialArgumentsTests {
  @Test("trials take a count, a seed, their own numbers and operands, and nothing else")
  func arguments() throws {
    let made = try #require(
      TrialArguments(
        ["--count", "5", "a", "--seed", "7", "--own", "9", "b"], count: 1, options: ["own"],
        takesOperands: true))
    #expect(made.count == 5 && made.seed == 7)
    #expect(made.numbers == ["own": 9] && made.operands == ["a", "b"])
    #expect(TrialArguments([], count: 3)?.count == 3)
    for wrong in [
      ["--count"], ["--count", "x"], ["--seed", "-1"], ["--own", "1"], ["a"], ["--help"],
    ] {
      #expect(TrialArguments(wrong, count: 1) == nil, "\(wrong)")
    }
  }
}
