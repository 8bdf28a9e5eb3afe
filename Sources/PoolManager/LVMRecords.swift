import BlockIO
import Glibc

/// What lvm2 has written down about a pool.
public enum LVMRecords {
  /// `vg/pool` for a name that lvm2 gave one of a pool's devices: `vg-pool-tpool`, `vg-pool_tmeta`,
  /// `vg-pool`. Nil for any other.
  static func volume(ofDevice name: String) -> String? {
    var name = Substring(name)
    for suffix in ["-tpool", "_tmeta", "_tdata"] where name.hasSuffix(suffix) {
      name = name.dropLast(suffix.count)
    }
    // Hyphens of the names themselves are doubled.
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

  /// The name that lvm2 gave the device at `path`; nil for one that is not lvm2's.
  public static func name(ofPath path: String) -> String? {
    guard let number = try? SystemDevices.number(path),
      let uuid = WholeFile.systemText("/sys/dev/block/\(number)/dm/uuid"),
      uuid.hasPrefix("LVM-")
    else { return nil }
    return WholeFile.systemText("/sys/dev/block/\(number)/dm/name")
  }

  /// `vg/pool`, of which the device at `path` is a part, or `vg/volume`; nil for one that is not lvm2's.
  public static func volume(ofPath path: String) -> String? {
    name(ofPath: path).flatMap { volume(ofDevice: $0) }
  }

  /// The transaction id that lvm2 expects of the pool that has the metadata device at `path`; nil for
  /// a device that is not lvm2's, or where lvm2 is not there.
  public static func transactionID(ofPath path: String) -> UInt64? {
    volume(ofPath: path).flatMap { transactionID($0) }
  }

  /// How long lvm2 may take, in milliseconds. It waits without end for a suspended device that it scans.
  private static let patience = 10_000

  /// The transaction id that lvm2 expects of `volume`; nil where lvm2 is not there, knows no such pool, or
  /// does not answer within ten seconds.
  static func transactionID(_ volume: String) -> UInt64? {
    // Such a name may come from anybody who may name devices.
    guard !volume.hasPrefix("-") else { return nil }
    for folder in ["/usr/sbin", "/sbin", "/usr/local/sbin"] where access("\(folder)/lvs", X_OK) == 0
    {
      let output = SystemProgram.output(
        of: ["\(folder)/lvs", "--readonly", "--noheadings", "-o", "transaction_id", volume],
        within: patience)
      return output.flatMap { UInt64($0.filter { !$0.isWhitespace }) }
    }
    return nil
  }
}
