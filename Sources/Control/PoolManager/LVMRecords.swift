import BlockIO
import Glibc

/// Reads lvm2's records of a pool.
public enum LVMRecords {
  /// `vg/pool` for the name of one of a pool's devices in lvm2: `vg-pool-tpool`, `vg-pool_tmeta`,
  /// `vg-pool`. Nil for any other name.
  static func volume(ofDevice name: String) -> String? {
    var name = Substring(name)
    for suffix in ["-tpool", "_tmeta", "_tdata"] where name.hasSuffix(suffix) {
      name = name.dropLast(suffix.count)
    }
    // Hyphens in the names themselves are doubled.
    var parts = [""]
    var rest = name
    while let character = rest.popFirst() {
      guard character == "-" else {
        parts[parts.count - 1].append(character)
        continue
      }
      if rest.first == "-" {
        rest.removeFirst()
        parts[parts.count - 1].append("-")
      } else {
        parts.append("")
      }
    }
    return parts.count == 2 && !parts[0].isEmpty && !parts[1].isEmpty
      ? "\(parts[0])/\(parts[1])" : nil
  }

  /// The lvm2 name of the device at `path`; nil if lvm2 did not name it.
  public static func name(ofPath path: String) -> String? {
    guard let number = try? SystemDevices.number(path),
      let uuid = WholeFile.systemText("/sys/dev/block/\(number)/dm/uuid"),
      uuid.hasPrefix("LVM-")
    else { return nil }
    return WholeFile.systemText("/sys/dev/block/\(number)/dm/name")
  }

  /// `vg/pool` for the device of a pool at `path`, or `vg/volume`; nil if it is not one of lvm2's.
  public static func volume(ofPath path: String) -> String? {
    name(ofPath: path).flatMap { volume(ofDevice: $0) }
  }

  /// The transaction id that lvm2 expects of the pool with the metadata device at `path`; nil for a
  /// device that is not one of lvm2's, or without lvm2.
  public static func transactionID(ofPath path: String) -> UInt64? {
    volume(ofPath: path).flatMap { transactionID($0) }
  }

  /// The time limit for lvm2, in milliseconds. lvm2 waits without end for a suspended device that
  /// it scans.
  private static let patience = 10_000

  /// The transaction id that lvm2 expects of `volume`; nil without lvm2, for an unknown pool, or if
  /// lvm2 does not answer within ten seconds.
  static func transactionID(_ volume: String) -> UInt64? {
    // Any user who can name devices may have made such a name.
    guard !volume.hasPrefix("-") else { return nil }
    for folder in ["/usr/sbin", "/sbin", "/usr/local/sbin"]
    where unsafe access("\(folder)/lvs", X_OK) == 0 {
      let output = SystemProgram.output(
        of: ["\(folder)/lvs", "--readonly", "--noheadings", "-o", "transaction_id", volume],
        within: patience)
      return output.flatMap { UInt64($0.filter { !$0.isWhitespace }) }
    }
    return nil
  }
}
