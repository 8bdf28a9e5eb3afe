/// How much clients may take up. What goes beyond waits, or is refused.
public struct ServerLimits: Sendable {
  /// Connections at a time.
  public var connections = 128
  /// Requests of one connection at a time; it is not read from while it has as many.
  public var requestsPerConnection = 256
  /// Bytes in buffers, of all connections, and in what connections have besides: at least 64 MiB, so that
  /// the largest request fits in half of it. The other half is shared out evenly: what a connection has
  /// within its share it need not wait for, whatever the others hold.
  public var bytes = 160 << 20
  /// Bytes in buffers of one connection; one request of any size is taken in spite of it.
  public var bytesPerConnection = 64 << 20
  /// How long a client may take until it has chosen an export, in nanoseconds.
  public var handshakeNanoseconds: UInt64 = 20_000_000_000
  /// How long a client that holds buffers may make no progress while others wait for them, in
  /// nanoseconds.
  public var stallNanoseconds: UInt64 = 5_000_000_000

  /// Limits for a handful of clients with deep queues.
  public init() {}
}

/// What a server has done, for those who measure.
public struct ServerCounters: Sendable {
  /// Connections accepted.
  public var accepted: UInt64 = 0
  /// Of these, the ones dropped for breaking the rules, for being silent, or because there were too
  /// many.
  public var dropped: UInt64 = 0
  /// Requests to read.
  public var reads: UInt64 = 0
  /// Requests to write.
  public var writes: UInt64 = 0
  /// Requests to flush.
  public var flushes: UInt64 = 0
  /// Requests to discard (trim).
  public var discards: UInt64 = 0
  /// Requests to write zeros.
  public var zeroes: UInt64 = 0
  /// Bytes that clients asked to read.
  public var bytesRead: UInt64 = 0
  /// Bytes that clients asked to write.
  public var bytesWritten: UInt64 = 0
  /// Requests that ended with an error.
  public var errors: UInt64 = 0

  /// Nothing so far.
  public init() {}
}
