import BlockIO
import Glibc
import ThinFormat
import ThinTools

// What is looked at so that nothing precious is overwritten.
extension InputChecks {
  /// Messages and results do not go to what is read or written: `thin_check m >m`, `2>>m`.
  static func requireOtherThanStandardOutput(_ path: String) throws(ToolError) {
    guard let identity = FileIdentity(path: path) else { return }
    // The error output first: both may be the same, and the message is not to go there.
    for descriptor: Int32 in [2, 1] where FileIdentity(descriptor: descriptor) == identity {
      if descriptor == 2 {
        // This message would be the first to overwrite it.
        let null = open("/dev/null", O_WRONLY | O_CLOEXEC)
        dup2(null, 2)
        close(null)
      }
      throw ToolError(
        .precious,
        "\(path) is the standard \(descriptor == 1 ? "output" : "error") as well: what is said there "
          + "would overwrite it")
    }
  }

  /// What a file is by its first block, where text is not to replace it.
  static func preciousContent(_ firstBlock: [UInt8]) -> String? {
    firstBlock.withUnsafeBytes { SuperblockRecord.isClaimed(by: RawSpan(_unsafeBytes: $0)) }
      ? "metadata of a thin pool" : nil
  }
}
