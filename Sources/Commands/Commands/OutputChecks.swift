import BlockIO
import Glibc
import ThinFormat
import ThinTools

// Checks that protect valuable files from being overwritten.
extension InputChecks {
  /// The output of a command at a path.
  static func textOutput(_ path: String, _ rules: TextOutput.Rules = TextOutput.Rules())
    throws(ToolError) -> TextOutput
  {
    do throws(OutputError) {
      return try TextOutput(path: path, rules)
    } catch {
      throw ToolError(error)
    }
  }

  /// Requires that a file is neither the standard output nor the error output: `thin_check m >m`,
  /// `2>>m`.
  static func requireOtherThanStandardOutput(_ path: String) throws(ToolError) {
    guard let identity = FileIdentity(path: path) else { return }
    // The error output first: if both are the same file, the message must not go there.
    for descriptor: Int32 in [2, 1] where FileIdentity(descriptor: descriptor) == identity {
      if descriptor == 2 {
        // Otherwise this message would be the first to overwrite it.
        let null = unsafe open("/dev/null", O_WRONLY | O_CLOEXEC)
        dup2(null, 2)
        close(null)
      }
      throw ToolError(
        .precious,
        "\(path) is also the standard \(descriptor == 1 ? "output" : "error"): messages there "
          + "would overwrite it")
    }
  }

  /// The kind of a file whose first block shows that text must not replace it; otherwise nil.
  static func preciousContent(_ firstBlock: [UInt8]) -> String? {
    unsafe firstBlock.withUnsafeBytes {
      unsafe SuperblockRecord.isClaimed(by: RawSpan(_unsafeBytes: $0))
    }
      ? "metadata of a thin pool" : nil
  }
}
