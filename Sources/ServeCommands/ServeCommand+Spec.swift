public import Commands
import DeviceMapper
import PoolServer

extension ServeCommand {
  /// What the command takes.
  public static let spec = CommandSpec(
    name: "serve", fieldName: "dmthin-serve",
    summary: "serve a pool's thin volumes by NBD, without the kernel",
    description: [
      """
      Takes a pool's two devices or files, as the kernel's thin-pool target would, and offers its thin \
      volumes to NBD clients until it is told to end (SIGTERM or SIGINT): then requests under way \
      are finished, everything is committed, and the pool is free for whoever comes next, the kernel \
      included. A second signal does not wait for clients. Nothing else may use the pool meanwhile: \
      devices are opened exclusively, files are locked.
      """,
      """
      A volume is NAME=ID:SIZE: thin device ID under a name, as large as SIZE, which the pool itself does \
      not know. Without --volume every thin device is served, each up to the end of its last mapped \
      block, as thinID.
      """,
      """
      With --control, dmthin dm and dmthin pool work on the running server (--backend userspace): they \
      make snapshots and thin devices, activate volumes, which are exported at once, and show status. \
      A volume that clients have open cannot be removed.
      """,
      """
      Should the process or the machine end without warning, what clients have flushed is there; as with \
      any disk, what they have not may be lost.
      """,
    ],
    options: poolOptions + doorOptions + targetOptions + tlsOptions + [quietOption],
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
        "Look at every volume of a pool without writing a byte."
      ),
      (
        "$ --control /run/dmthin/control --socket /run/dmthin/nbd",
        "Start without a pool; dmthin pool activate --backend userspace brings one."
      ),
    ],
    exitStatus: [
      (.ok, "Told to end; everything is committed."),
      (.damaged, "The metadata is damaged, or what was asked does not fit the pool."),
      (.busy, "Somebody else uses the pool, or a socket."),
    ],
    seeAlso: ["dmthin-pool-activate", "dmthin-dm", "nbdinfo", "thin_check"])

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
        Devices to make instead, as dmsetup's --concise has them: name,uuid,minor,flags,table;... or one \
        to a line. Targets are \(ServeOptions.targets.sorted().joined(separator: ", ")).
        """, conflicts: ["volume", "features", "low-water", "name"]),
    .volume(
      """
      A thin device to serve. SIZE is like 204800s or 10g; without it, up to the last mapped block. \
      ORIGIN is a device or file that is read where nothing is mapped; - says that there is none any more. \
      Default: every thin device.
      """, form: "NAME=ID[:SIZE[:ORIGIN]]"),
    OptionSpec(
      "name", value: .required(placeholder: "NAME", .text),
      help: "The pool's name for dmthin dm and dmthin pool. Default: pool."),
    OptionSpec(
      "read-only",
      help: """
        Write nothing, to neither device: both are opened for reading only. Serves pools that need a \
        check, and damaged ones as far as they can be read.
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
        When to check metadata before it is served for writing; damaged metadata is refused. auto: \
        unless a server left it sound, and nothing was written to it since. full: always. none: never, \
        at the risk that one volume overwrites another. Default: auto.
        """),
    OptionSpec(
      "tickets", value: .required(placeholder: "FOLDER", .path),
      help: """
        Where notes of pools that ended well are kept. Default: DMTHIN_TICKETS, for root \
        /var/lib/dmthin/tickets, for other users dmthin/tickets of XDG_STATE_HOME or ~/.local/state.
        """),
  ]

  private static let doorOptions = [
    OptionSpec(
      "socket", value: .required(placeholder: "PATH", .path),
      help: "A unix socket for NBD clients, for this user alone. May be repeated.",
      isRepeatable: true),
    OptionSpec(
      "listen", value: .required(placeholder: "ADDRESS:PORT", .text),
      help: """
        An address for NBD clients; port 0 lets the system choose, and it is printed. Whoever reaches it \
        can read and write all volumes, unless TLS says otherwise. May be repeated.
        """, isRepeatable: true),
    OptionSpec(
      "control", value: .required(placeholder: "PATH", .path),
      help: """
        The control socket, for this user and root alone. Default: SOCKET.control after the first \
        --socket.
        """),
    OptionSpec(
      "metrics", value: .required(placeholder: "ADDRESS:PORT|PATH", .text),
      help:
        "Answer GET /metrics there, for Prometheus. A PATH, with a slash in it, is a unix socket."
    ),
    OptionSpec(
      "until-idle", value: .required(placeholder: "SECONDS", .number(max: 1 << 32)),
      help: """
        End after so many seconds without a device, a client or a command. Default: stay until told to end.
        """),
    OptionSpec(
      "connections",
      value: .required(
        placeholder: "NUMBER",
        .checked { text in
          (UInt64(text).map { (1...65_536).contains($0) } ?? false)
            ? nil : "expected a number from 1 to 65536"
        }),
      help: "NBD clients at a time. Default: 128."),
    OptionSpec(
      "memory", value: .required(placeholder: "MIB", .number(max: 1 << 20)),
      help: """
        The most memory that the server takes, in MiB: its own, --metadata-cache, and what clients have in \
        buffers, who wait for what goes beyond. Default: 224 and the cache, which is 256; for more than 128 \
        connections a quarter of a MiB more for each.
        """),
  ]

  private static let targetOptions = [
    OptionSpec(
      "features",
      value: .required(
        placeholder: "LIST", .list(ThinPoolTarget.Feature.allCases.map(\.rawValue))),
      help: """
        Features of the pool, separated by commas, as a table of the kernel's has them: \
        \(ThinPoolTarget.Feature.allCases.map(\.rawValue).joined(separator: ", ")).
        """),
    OptionSpec(
      "low-water", value: .required(placeholder: "BLOCKS", .number),
      help: "Free data blocks at which the pool raises an event. Default: a twentieth of all."),
    OptionSpec(
      "no-space-timeout", value: .required(placeholder: "SECONDS", .number(max: 1 << 32)),
      help: "How long a full pool lets writes wait before they fail; 0 is for ever. Default: 60."),
    OptionSpec(
      "metadata-cache", value: .required(placeholder: "MIB", .number(max: 1 << 20)),
      help: "Metadata to keep in memory, in MiB. Default: 32."),
    OptionSpec(
      "spin", value: .required(placeholder: "MICROSECONDS", .number(max: 1_000_000)),
      help: """
        How long to look for completed I/O before sleeping, while little is on its way and the \
        disk answers within that time. It helps on a machine with processors to spare, and costs \
        throughput on a virtual machine or a busy one: measure before you set it. Default: 0, never.
        """),
  ]

  private static let tlsOptions = [
    OptionSpec(
      "tls-certificate", value: .required(placeholder: "FILE", .path),
      help: "The server's certificate, PEM; with --tls-key. Clients may use TLS then."),
    OptionSpec(
      "tls-key", value: .required(placeholder: "FILE", .path), help: "Its private key, PEM."),
    OptionSpec(
      "tls-client-ca", value: .required(placeholder: "FILE", .path),
      help: "Clients need a certificate signed by one of these."),
    OptionSpec(
      "tls-psk", value: .required(placeholder: "FILE", .path),
      help: "Keys shared with clients, lines of NAME:HEX as psktool writes them.",
      conflicts: ["tls-certificate", "tls-key", "tls-client-ca"]),
    OptionSpec("tls-required", help: "Refuse clients that do not use TLS."),
  ]

  private static let quietOption = OptionSpec(
    "quiet", short: "q", help: "Print nothing, errors included: the exit status tells.")
}
