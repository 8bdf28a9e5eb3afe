import CDMThin
import Glibc
import ThinFormat

/// Why a digest could not be computed.
public struct DigestError: Error, CustomStringConvertible {
  /// The failure.
  public let description: String
}

/// The SHA-256 of a metadata image as in the conformance vectors: the bytes of block 0 that the
/// kernel leaves undefined count as zero, and the image is extended with zeros to `blocks`.
/// Computed by the system's `sha256sum`.
public func imageDigest(_ device: MemoryDevice, blocks: UInt64) throws(DigestError) -> String {
  let result = dmthin_memory_file("digest")
  defer { close(result) }
  // "e": a program that is started meanwhile must not keep the pipe open.
  guard let sum = popen("exec sha256sum >/proc/\(getpid())/fd/\(result)", "we") else {
    throw DigestError(description: "cannot run sha256sum")
  }
  var first = Array(device.peek(0))
  for range in [0..<4, 96..<192, 224..<320] {
    for i in range { first[i] = 0 }
  }
  var written = fwrite(first, 1, first.count, sum)
  let present = min(device.byteCount / UInt64(Limits.blockBytes), blocks)
  for block in 1..<max(1, present) {
    written += fwrite(device.peek(block).baseAddress, 1, Limits.blockBytes, sum)
  }
  let zeros = [UInt8](repeating: 0, count: Limits.blockBytes)
  for _ in max(1, present)..<max(1, blocks) { written += fwrite(zeros, 1, zeros.count, sum) }
  guard pclose(sum) == 0, written == Int(blocks) * Limits.blockBytes else {
    throw DigestError(description: "sha256sum failed")
  }
  var text = [UInt8](repeating: 0, count: 64)
  guard pread(result, &text, text.count, 0) == text.count else {
    throw DigestError(description: "sha256sum printed nothing")
  }
  return String(decoding: text, as: UTF8.self)
}

extension TraceReplayer {
  /// The lines of a trace, which may be compressed with gzip.
  public static func lines(ofTrace path: String) throws(DigestError) -> [Substring] {
    let quoted =
      "'"
      + path.split(separator: "'", omittingEmptySubsequences: false)
      .joined(separator: #"'\''"#) + "'"
    let program = path.hasSuffix(".gz") ? "gzip -dc" : "cat"
    guard let file = popen("exec \(program) \(quoted)", "re") else {
      throw DigestError(description: "cannot run \(program)")
    }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let n = fread(&chunk, 1, chunk.count, file)
      if n == 0 { break }
      text += chunk[..<n]
    }
    guard pclose(file) == 0 else { throw DigestError(description: "cannot read \(path)") }
    return String(decoding: text, as: UTF8.self).split(separator: "\n")
  }

  /// Blocks of the largest metadata device in a trace, to which every image is extended.
  public static func blocksMax(_ lines: [Substring]) -> UInt64 {
    lines.reduce(0) { largest, line in
      let words = line.split(separator: " ")
      guard words.count > 1, words[0] == "meta" || words[0] == "growboth" else { return largest }
      return max(largest, UInt64(words[1]) ?? 0)
    }
  }
}
