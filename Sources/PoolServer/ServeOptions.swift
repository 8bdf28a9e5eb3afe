public import BlockServer
public import DeviceMapper
import Glibc
public import PoolManager
import Targets
import ThinTools

/// What `dmthin serve` is told.
public struct ServeOptions {
  /// Types of targets that tables can have.
  public static let targets = TargetType.all.map(\.name)

  /// Where the pool comes from.
  public enum Source: Equatable, Sendable {
    /// Its metadata and data: devices or files.
    case devices(metadata: String, data: String)
    /// A file of concise tables.
    case tables(String)
    /// Nothing yet: commands make it.
    case none
  }

  /// Where the pool comes from.
  public var source = Source.none
  /// The pool's name.
  public var name = "pool"
  /// What is served; every device of the pool where there is nothing.
  public var volumes: [VolumeSpec] = []
  /// Unix sockets for clients.
  public var sockets: [String] = []
  /// Addresses for clients, `ADDRESS:PORT`.
  public var addresses: [String] = []
  /// The control socket.
  public var control: String?
  /// Where metrics are told: `ADDRESS:PORT`, or the path of a unix socket.
  public var metrics: String?
  /// Nothing is written, by nobody.
  public var isReadOnly = false
  /// How metadata is looked at before it is served for writing.
  public var check = MetadataCare.auto
  /// The folder with notes of pools that ended well; nil: none.
  public var tickets: String?
  /// Features of the pool.
  public var features: Set<ThinPoolTarget.Feature> = []
  /// Free data blocks at which an event is raised; nil stands for a twentieth.
  public var lowWaterBlocks: UInt64?
  /// How long a full pool lets writes wait, in seconds; 0 for ever.
  public var noSpaceTimeoutSeconds: UInt64 = 60
  /// Blocks of 4 KiB of metadata that are kept in memory.
  public var metadataCacheBlocks = 8192
  /// How long to look for completions before sleeping, in microseconds, where the disk answers within
  /// that as a rule. Not by default: on a virtual machine it takes the processor from those who do
  /// the disk's work (`contrib/bench/serve --spin`).
  public var spinMicroseconds: UInt64 = 0
  /// How long to stay without a device, a client or a command, in seconds; nil: until told to end.
  public var untilIdleSeconds: UInt64?
  /// How clients are authenticated.
  public var security = Security.plain
  /// What clients may take up.
  public var limits = ServerLimits()

  /// Nothing is told yet.
  public init() {}

  /// What the program itself takes of memory.
  private static let programBytes = 64 << 20
  private static let bytesPerConnection = 256 << 10

  /// The least memory that the server can do with, in bytes.
  public var memoryBytesMin: Int {
    Self.programBytes + metadataCacheBlocks * 4096 + (64 << 20)
      + max(0, limits.connections - 128) * Self.bytesPerConnection
  }

  /// Has clients get what the server and the cache leave of so much memory; by default 160 MiB, and a
  /// quarter of a MiB more for each connection beyond 128. False if that is too little.
  public mutating func setMemory(bytes: Int?) -> Bool {
    let least = memoryBytesMin
    let memory = bytes ?? least + (96 << 20)
    guard memory >= least else { return false }
    limits.bytes = memory - Self.programBytes - metadataCacheBlocks * 4096
    return true
  }
}

extension ToolError {
  /// What happened to a device or file that was to be served, by the system's error number.
  init(_ code: Int32, _ message: String) {
    self.init(code == EBUSY || code == EADDRINUSE ? .inUse : .notFound(.input), message)
  }
}
