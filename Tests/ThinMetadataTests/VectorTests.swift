import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

/// Our metadata is the kernel's, byte for byte.
@Suite struct VectorTests {
  private static let folder = "\(Repository.root)/Tests/ThinMetadataTests/Vectors"

  /// A trace and what the kernel had for each of its dumps.
  private struct Vector {
    let lines: [Substring]
    let blocks: UInt64
    let expected: [(label: Substring, digest: Substring)]

    init(_ name: String) throws {
      lines = try TraceReplayer.lines(ofTrace: "\(folder)/\(name).ops.gz")
      blocks = TraceReplayer.blocksMax(lines)
      expected = try TraceReplayer.lines(ofTrace: "\(folder)/\(name).sha").map {
        let words = $0.split(separator: " ")
        return (words[0], words[2])
      }
    }
  }

  /// Replays a trace and compares images; only the last one where `onlyLast`.
  private func replay(_ name: String, cacheBlocksMax: Int, onlyLast: Bool = false) throws {
    let vector = try Vector(name)
    let replayer = TraceReplayer(cacheBlocksMax: cacheBlocksMax)
    var at = 0
    for (i, line) in vector.lines.enumerated() {
      try replayer.run(line) { label, device in
        let (expectedLabel, expected) = vector.expected[at]
        at += 1
        #expect(label == expectedLabel)
        if onlyLast && at < vector.expected.count { return }
        let digest = try imageDigest(device, blocks: vector.blocks)
        #expect(digest == expected, "\(name), line \(i + 1), \(label)")
      }
    }
    #expect(at == vector.expected.count)
    let report = try ThinCheck.run(replayer.device, options: CheckOptions(), progress: Progress())
    #expect(report.isClean, "\(report.findings)")
  }

  // The images of q2 have 320 MiB each; its last one has the marks of every growth before.
  @Test(
    "a trace gives the kernel's image at every commit",
    arguments: ["t1", "q2", "q3", "r1", "r2", "r3"])
  func images(_ name: String) throws {
    try replay(name, cacheBlocksMax: 8192, onlyLast: name == "q2")
  }

  @Test(
    "writing early for want of memory changes no image", arguments: ["t1", "q3", "r1", "r2", "r3"])
  func tinyCache(_ name: String) throws { try replay(name, cacheBlocksMax: 16) }
}
