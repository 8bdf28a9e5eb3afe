/// Numbers of the NBD protocol, by the names of its document.
enum Nbd {
  static let initMagic: UInt64 = 0x4e42_444d_4147_4943
  static let optionMagic: UInt64 = 0x4948_4156_454f_5054
  static let optionReplyMagic: UInt64 = 0x0003_e889_0455_65a9
  static let requestMagic: UInt32 = 0x2560_9513
  static let simpleReplyMagic: UInt32 = 0x6744_6698
  static let structuredReplyMagic: UInt32 = 0x668e_33ef

  /// Bytes of a request's header, of a simple reply, and of a chunk's header.
  static let requestBytes = 28
  static let simpleReplyBytes = 16
  static let chunkBytes = 20
  /// No string is longer.
  static let stringBytesMax = 4096
  /// Payloads of reads and writes are no longer.
  static let payloadBytesMax = 32 << 20

  /// What server and client say first.
  enum HandshakeFlag {
    static let fixedNewstyle: UInt16 = 1
    static let noZeroes: UInt16 = 2
  }

  /// What an export can do.
  struct TransmissionFlags: OptionSet {
    let rawValue: UInt16
    static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
    static let readOnly = TransmissionFlags(rawValue: 1 << 1)
    static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
    static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
    static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
    static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
    static let sendDF = TransmissionFlags(rawValue: 1 << 7)
    static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
    static let sendCache = TransmissionFlags(rawValue: 1 << 10)
    static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)
  }

  enum Option: UInt32 {
    case exportName = 1
    case abort = 2
    case list = 3
    case startTLS = 5
    case info = 6
    case go = 7
    case structuredReply = 8
    case listMetaContext = 9
    case setMetaContext = 10
  }

  enum OptionReply: UInt32 {
    case ack = 1
    case server = 2
    case info = 3
    case metaContext = 4
    case unsupported = 0x8000_0001
    case policy = 0x8000_0002
    case invalid = 0x8000_0003
    case tlsRequired = 0x8000_0005
    case unknown = 0x8000_0006
    case shutdown = 0x8000_0007
    case tooBig = 0x8000_0009
  }

  enum Info: UInt16 {
    case export = 0
    case name = 1
    case description = 2
    case blockSize = 3
  }

  enum Command {
    static let read: UInt16 = 0
    static let write: UInt16 = 1
    static let disconnect: UInt16 = 2
    static let flush: UInt16 = 3
    static let trim: UInt16 = 4
    static let cache: UInt16 = 5
    static let writeZeroes: UInt16 = 6
    static let blockStatus: UInt16 = 7
  }

  enum CommandFlag {
    static let fua: UInt16 = 1 << 0
    static let noHole: UInt16 = 1 << 1
    static let dontFragment: UInt16 = 1 << 2
    static let onlyOne: UInt16 = 1 << 3
    static let fastZero: UInt16 = 1 << 4
  }

  enum Chunk {
    static let done: UInt16 = 1
    static let none: UInt16 = 0
    static let offsetData: UInt16 = 1
    static let offsetHole: UInt16 = 2
    static let blockStatus: UInt16 = 5
    static let error: UInt16 = 0x8001
  }

  enum State {
    static let hole: UInt32 = 1
    static let zero: UInt32 = 2
  }

  static let allocationContext = "base:allocation"
  /// How a connection's one metadata context is called in replies.
  static let allocationContextID: UInt32 = 1
}

/// The error numbers that the protocol allows. What the system calls otherwise is mapped.
enum NbdError: UInt32 {
  case permission = 1
  case inputOutput = 5
  case noMemory = 12
  case invalid = 22
  case noSpace = 28
  case overflow = 75
  case notSupported = 95
  case shutdown = 108
}
