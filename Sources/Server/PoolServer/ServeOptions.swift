public import BlockServer
import DataPath
public import DeviceMapper
import Glibc
public import PoolManager
import Targets
import ThinTools

/// The options of `dmthin serve`.
public struct ServeOptions {
  /// The origin of the pool.
  public enum Source: Equatable, Sendable {
    /// Its metadata and data: names of disks, mostly paths of devices or files.
    case devices(metadata: String, data: String)
    /// What can be read of a damaged pool.
    case rescue(RescueServing)
    /// A file of concise tables.
    case tables(String)
    /// None; commands make pools later.
    case none
  }

  /// The origin of the pool.
  public var source = Source.none
  /// The pool's name.
  public var name = "pool"
  /// The volumes to serve; empty for every device of the pool.
  public var volumes: [VolumeSpec] = []
  /// Unix sockets for clients.
  public var sockets: [String] = []
  /// Addresses for clients, `ADDRESS:PORT`.
  public var addresses: [String] = []
  /// The control socket.
  public var control: String?
  /// The metrics socket: `ADDRESS:PORT`, or the path of a unix socket.
  public var metrics: String?
  /// Whether to write nothing.
  public var isReadOnly = false
  /// When to check metadata before serving it for writing.
  public var check = MetadataCare.auto
  /// The folder of tickets, which record pools that were closed cleanly; nil: none.
  public var tickets: String?
  /// Features of the pool.
  public var features: Set<ThinPoolTarget.Feature> = []
  /// Free data blocks at which an event is raised; nil for a twentieth of the pool.
  public var lowWaterBlocks: UInt64?
  /// How long writes to a full pool wait, in seconds; 0 for ever.
  public var noSpaceTimeoutSeconds: UInt64 = 60
  /// Blocks of 4 KiB of metadata to keep in memory.
  public var metadataCacheBlocks = 8192
  /// How long to poll for completions before sleeping, in microseconds, if the disk usually answers
  /// within that time. Off by default: on a virtual machine it takes the processor from the threads
  /// that do the disk's work (`contrib/bench/serve --spin`).
  public var spinMicroseconds: UInt64 = 0
  /// How long to run without a device, a client or a command, in seconds; nil: until a signal.
  public var untilIdleSeconds: UInt64?
  /// How clients are authenticated.
  public var security = Security.plain
  /// The limits for clients.
  public var limits = ServerLimits()

  /// The default options.
  public init() {}

  /// The program's own memory.
  private static let programBytes = 64 << 20
  private static let bytesPerConnection = 256 << 10

  /// The least memory with which the server works, in bytes.
  public var memoryBytesMin: Int {
    Self.programBytes + metadataCacheBlocks * 4096 + (64 << 20)
      + max(0, limits.connections - 128) * Self.bytesPerConnection
  }

  /// Gives clients the part of this memory that the server and the cache leave; by default 160 MiB,
  /// and a quarter of a MiB more for each connection beyond 128. Returns false if that is too
  /// little.
  public mutating func setMemory(bytes: Int?) -> Bool {
    let least = memoryBytesMin
    let memory = bytes ?? least + (96 << 20)
    guard memory >= least else { return false }
    limits.bytes = memory - Self.programBytes - metadataCacheBlocks * 4096
    return true
  }
}

extension ToolError {
  /// The error for a device or file to be served, from the system's error number.
  init(_ code: Int32, _ message: String) {
    self.init(code == EBUSY || code == EADDRINUSE ? .inUse : .notFound(.input), message)
  }
}
