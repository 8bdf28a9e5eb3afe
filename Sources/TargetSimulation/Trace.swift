/// What happened to the disks of a pool and to its clients, in one order.
public final class Trace {
  /// One thing that happened.
  enum Event {
    /// Bytes reached a disk. Durable ones are as if the disk was flushed for them alone.
    case write(disk: Int, offset: Int, bytes: [UInt8], isDurable: Bool)
    /// A disk was flushed: what happened to it before event `before` survives power cuts.
    case flush(disk: Int, before: Int)
    /// A disk has another size.
    case resize(disk: Int, byteCount: Int)
    case client(ClientEvent)
  }

  /// In the order in which it happened.
  private(set) var events: [Event] = []

  /// Nothing happened yet.
  public init() {}

  /// Where the next event comes.
  var position: Int { events.count }

  func append(_ event: Event) { events.append(event) }
}

/// What a client of a pool asked for, and was told.
enum ClientEvent {
  enum Kind {
    /// Sectors get the values from `first` on, one more for each.
    case write(first: UInt64)
    /// Sectors get the value 0.
    case zero
    /// Sectors get what an empty volume has; until a flush, they may have anything.
    case discard
    /// What was acknowledged before is to stay.
    case flush
  }
  struct Request {
    var kind: Kind
    var volume: Int
    /// Sectors of the volume; whole blocks of a discard.
    var sectors: Range<Int>
    /// It is to stay once it is acknowledged.
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
