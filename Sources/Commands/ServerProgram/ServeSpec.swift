public import Commands
import DataPath
import DeviceMapper
import PoolManager
import Targets

/// The command line of `dmthin serve`, for the program that takes it and the one that runs the server.
public enum ServeSpec {
  /// The target types allowed in tables.
  private static let targets = TargetType.all.map(\.name).sorted()
  /// The kinds of disks that can be named in place of a path, such as `memory:SIZE`, each with a description.
  private static let disks = DiskKind.all.map { "\($0.form), \($0.summary)" }

  /// Options, operands, help and exit statuses of the command.
  public static let spec = CommandSpec(
    name: "serve", fieldName: "dmthin-serve",
    summary: "serve a pool's thin volumes by NBD, without the kernel",
    description: [
      """
      Opens a pool's two devices or files, as the kernel's thin-pool target would, and serves its \
      thin volumes to NBD clients until SIGTERM or SIGINT. Then it finishes pending requests and \
      commits everything, and the pool can be used elsewhere, by the kernel too. A second signal \
      ends it without waiting for clients. The pool cannot be used elsewhere meanwhile: devices \
      are opened exclusively, files are locked.
      """,
      """
      A volume is NAME=ID:SIZE: thin device ID under a name, with SIZE, which the pool does not \
      record. Without --volume every thin device is served as thinID, up to the end of its last \
      mapped block.
      """,
      """
      In place of a path, --metadata, --data and table lines accept a kind of disk: \
      \(disks.joined(separator: "; ")). A pool whose two disks begin with zeros is new, \
      and its --volumes are made. For a file whose name looks like that, give ./ before it.
      """,
      """
      With --control, dmthin dm and dmthin pool work on the running server (--backend userspace): \
      they make snapshots and thin devices, activate volumes, which are exported at once, and show \
      status. A volume cannot be removed while clients have it open.
      """,
      """
      With --rescue it serves every thin device that can be read of damaged metadata, read-only, as \
      dmthin extract copies them. Lost ranges are read errors. Nothing is written.
      """,
      """
      If the process or the machine stops without warning, everything that clients have flushed is \
      kept. As with any disk, unflushed writes may be lost.
      """,
    ],
    options: poolOptions + rescueOptions + doorOptions + targetOptions + tlsOptions + [quietOption],
    examples: [
      (
        "$ --metadata meta --data data --volume root=1:10g --socket s",
        "Serve thin device 1 of a pool in two files as nbd+unix:///root?socket=s."
      ),
      (
        "dmthin pool snapshot --control s.control pool 2 1",
        "Make thin device 2 of that pool, a snapshot of 1, while clients write."
      ),
      (
        "$ --metadata meta --data data --read-only --listen 127.0.0.1:10809",
        "Serve every volume of a pool without writing to it."
      ),
      (
        "$ --rescue --metadata pool.pack --data data --socket s",
        "Serve what can be read of a damaged pool, without writing to it."
      ),
      (
        "$ --metadata memory:16m --data memory:1g --volume a=1:1g --socket s",
        "Try a new pool that is in memory and lost at the end."
      ),
      (
        "$ --control /run/dmthin/control --socket /run/dmthin/nbd",
        "Start without a pool; dmthin pool activate --backend userspace adds one."
      ),
    ],
    exitStatus: [
      (.ok, "Ended by a signal; everything is committed."),
      (.damaged, "The metadata is damaged, or the pool does not allow the operation."),
      (.busy, "The pool or a socket is in use."),
    ],
    seeAlso: ["dmthin-extract", "dmthin-pool-activate", "dmthin-dm", "nbdinfo", "thin_check"])

  private static let poolOptions = [
    OptionSpec(
      "metadata", value: .required(placeholder: "DEV", .path),
      help: "The pool's metadata device or file.", conflicts: ["tables"]),
    OptionSpec(
      "data", value: .required(placeholder: "DEV", .path), help: "The pool's data device or file.",
      conflicts: ["tables"]),
    OptionSpec(
      "tables", value: .required(placeholder: "FILE", .path),
      help: """
        Devices to make instead, in the format of dmsetup --concise: \
        name,uuid,minor,flags,table;... or one per line. Targets are \
        \(targets.joined(separator: ", ")).
        """, conflicts: ["volume", "features", "low-water", "name"]),
    .volume(
      """
      A thin device to serve. SIZE is like 204800s or 10g; without it, up to the last mapped \
      block. ORIGIN is a device or file that is read where nothing is mapped; - removes it. \
      Default: every thin device.
      """, form: "NAME=ID[:SIZE[:ORIGIN]]"),
    OptionSpec(
      "name", value: .required(placeholder: "NAME", .text),
      help: "The pool's name for dmthin dm and dmthin pool. Default: pool."),
    OptionSpec(
      "read-only",
      help: """
        Open both devices for reading only, and write nothing. Serves pools that need a check, and \
        damaged ones as far as they can be read.
        """),
    OptionSpec(
      "check",
      value: .required(
        placeholder: "WHEN",
        .checked { text in
          let words = MetadataCare.allCases.map(\.rawValue)
          return words.contains(text) ? nil : "expected one of \(words.joined(separator: ", "))"
        }),
      help: """
        When to check metadata before serving it for writing; damaged metadata is refused. auto: \
        unless a server left it sound and it was not written since. full: always. none: never, at \
        the risk that one volume overwrites another. Default: auto.
        """),
    OptionSpec(
      "tickets", value: .required(placeholder: "FOLDER", .path),
      help: """
        Folder for the records of pools that were closed cleanly. Default: DMTHIN_TICKETS, for \
        root /var/lib/dmthin/tickets, for other users dmthin/tickets of XDG_STATE_HOME or \
        ~/.local/state.
        """),
  ]

  private static let rescueOptions =
    [
      OptionSpec(
        "rescue",
        help: """
          Serve read-only what can be read of a damaged pool. --metadata may be a file of \
          thin_metadata_pack. The options from here to --nr-data-blocks are for this.
          """,
        conflicts: [
          "tables", "features", "low-water", "check", "tickets", "no-space-timeout", "name",
        ]),
      OptionSpec(
        "lost-as-zeroes",
        help: "Lost ranges read as zeros. Without it reading them fails."),
    ] + OptionSpec.rescue

  private static let doorOptions = [
    OptionSpec(
      "socket", value: .required(placeholder: "PATH", .path),
      help: "A unix socket for NBD clients, for this user only. May be repeated.",
      isRepeatable: true),
    OptionSpec(
      "listen", value: .required(placeholder: "ADDRESS:PORT", .text),
      help: """
        An address for NBD clients. With port 0 the system chooses a port, which is printed. \
        Anyone who can reach the address can read and write all volumes, unless TLS is required. \
        May be repeated.
        """, isRepeatable: true),
    OptionSpec(
      "control", value: .required(placeholder: "PATH", .path),
      help: """
        The control socket, for this user and root only. Default: SOCKET.control after the first \
        --socket.
        """),
    OptionSpec(
      "metrics", value: .required(placeholder: "ADDRESS:PORT|PATH", .text),
      help:
        "Answer GET /metrics for Prometheus at this address. A PATH, with a slash, is a unix socket."
    ),
    OptionSpec(
      "until-idle", value: .required(placeholder: "SECONDS", .number(max: 1 << 32)),
      help: """
        End after this many seconds without a device, a client or a command. Default: never.
        """),
    OptionSpec(
      "connections",
      value: .required(
        placeholder: "NUMBER",
        .checked { text in
          (UInt64(text).map { (1...65_536).contains($0) } ?? false)
            ? nil : "expected a number from 1 to 65536"
        }),
      help: "Maximum of NBD clients at a time. Default: 128."),
    OptionSpec(
      "memory", value: .required(placeholder: "MIB", .number(max: 1 << 20)),
      help: """
        The most memory that the server uses, in MiB: its own, --metadata-cache, and buffers of \
        clients, which wait if there is not enough. Default: 224 plus the cache, which makes 256; \
        for more than 128 connections a quarter of a MiB more for each.
        """),
  ]

  private static let targetOptions = [
    OptionSpec(
      "features",
      value: .required(
        placeholder: "LIST", .list(ThinPoolTarget.Feature.allCases.map(\.rawValue))),
      help: """
        Features of the pool, separated by commas, as in a table line of the kernel: \
        \(ThinPoolTarget.Feature.allCases.map(\.rawValue).joined(separator: ", ")).
        """),
    OptionSpec(
      "low-water", value: .required(placeholder: "BLOCKS", .number),
      help: "Free data blocks at which the pool raises an event. Default: a twentieth of all."),
    OptionSpec(
      "no-space-timeout", value: .required(placeholder: "SECONDS", .number(max: 1 << 32)),
      help: "How long writes to a full pool wait before they fail; 0 is for ever. Default: 60."),
    OptionSpec(
      "metadata-cache", value: .required(placeholder: "MIB", .number(max: 1 << 20)),
      help: "Metadata to keep in memory, in MiB. Default: 32."),
    OptionSpec(
      "spin", value: .required(placeholder: "MICROSECONDS", .number(max: 1_000_000)),
      help: """
        How long to poll for completed I/O before sleeping, while few requests are pending and the \
        disk answers within that time. It helps on a machine with idle processors, and costs \
        throughput on a virtual machine or a busy one: measure before you set it. Default: 0, never.
        """),
  ]

  private static let tlsOptions = [
    OptionSpec(
      "tls-certificate", value: .required(placeholder: "FILE", .path),
      help: "The server's certificate, PEM; with --tls-key. Lets clients use TLS."),
    OptionSpec(
      "tls-key", value: .required(placeholder: "FILE", .path), help: "Its private key, PEM."),
    OptionSpec(
      "tls-client-ca", value: .required(placeholder: "FILE", .path),
      help: "Require clients to have a certificate signed by one of these."),
    OptionSpec(
      "tls-psk", value: .required(placeholder: "FILE", .path),
      help: "Keys shared with clients, lines of NAME:HEX as psktool writes them.",
      conflicts: ["tls-certificate", "tls-key", "tls-client-ca"]),
    OptionSpec("tls-required", help: "Refuse clients that do not use TLS."),
  ]

  private static let quietOption = OptionSpec(
    "quiet", short: "q", help: "Print nothing, errors included: the exit status tells.")
}
