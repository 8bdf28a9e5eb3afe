import BlockIO
import CDMThin
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

  /// The transaction id that lvm2 expects of `volume`; nil where lvm2 is not there or knows no such
  /// pool.
  static func transactionID(_ volume: String) -> UInt64? {
    // Such a name may come from anybody who may name devices.
    guard !volume.hasPrefix("-") else { return nil }
    for folder in ["/usr/sbin", "/sbin", "/usr/local/sbin"] where access("\(folder)/lvs", X_OK) == 0
    {
      let output = run([
        "\(folder)/lvs", "--readonly", "--noheadings", "-o", "transaction_id", volume,
      ])
      return output.flatMap { UInt64($0.filter { !$0.isWhitespace }) }
    }
    return nil
  }

  /// What a program prints, up to 4 KiB; nil where it cannot be started or fails.
  private static func run(_ arguments: [String]) -> String? {
    var ends: [Int32] = [0, 0]
    guard dmthin_pipe(&ends) == 0 else { return nil }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    _ = dmthin_spawn_close_from(&actions, 3)
    var words = arguments.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var child: pid_t = 0
    let code = posix_spawn(&child, arguments[0], &actions, nil, &words, environ)
    close(ends[1])
    let bytes = code == 0 ? try? WholeFile.bytes(of: ends[0], path: arguments[0], upTo: 4096) : nil
    // Before the child is waited for, which may have more to say.
    close(ends[0])
    guard code == 0 else { return nil }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    return status == 0 ? bytes.map { String(decoding: $0, as: UTF8.self) } : nil
  }
}
