/// The events of a pool's disks and of its clients, in one order.
public final class Trace {
  /// One event.
  enum Event {
    /// Bytes reached a disk. A durable write is like one with its own flush.
    case write(disk: Int, offset: Int, bytes: [UInt8], isDurable: Bool)
    /// A disk was flushed: its writes before event `before` survive power cuts.
    case flush(disk: Int, before: Int)
    /// The size of a disk changed.
    case resize(disk: Int, byteCount: Int)
    case client(ClientEvent)
  }

  /// The events in order.
  private(set) var events: [Event] = []

  /// An empty trace.
  public init() {}

  /// The number of the next event.
  var position: Int { events.count }

  func append(_ event: Event) { events.append(event) }
}

/// A request of a client, or its result.
enum ClientEvent {
  enum Kind {
    /// Sectors get the values from `first` on, increasing by one per sector.
    case write(first: UInt64)
    /// Sectors get the value 0.
    case zero
    /// Sectors get the value of an empty volume; until a flush they may hold anything.
    case discard
    /// Everything acknowledged before becomes durable.
    case flush
  }
  struct Request {
    var kind: Kind
    var volume: Int
    /// The sectors of the volume; whole blocks for a discard.
    var sectors: Range<Int>
    /// Whether it is durable once it is acknowledged.
    var isDurable: Bool
  }
  enum Message {
    case create(Int, hasOrigin: Bool)
    case snapshot(Int, origin: Int)
    case delete(Int)
  }

  case begin(number: Int, Request)
  case end(number: Int, succeeded: Bool)
  case beginMessage(Message)
  case endMessage(Message, succeeded: Bool)
}
