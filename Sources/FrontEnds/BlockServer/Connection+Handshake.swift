import DataPath
import Glibc

/// Agreeing on an export: fixed newstyle negotiation.
extension Connection {
  /// Options are no longer; what is longer is skipped, and refused.
  private static var optionBytesMax: Int { 64 << 10 }
  private static var optionHeaderBytes: Int { 16 }

  /// Says hello.
  func greet() {
    var writer = WireWriter()
    writer.put(Nbd.initMagic)
    writer.put(Nbd.optionMagic)
    writer.put(Nbd.HandshakeFlag.fixedNewstyle | Nbd.HandshakeFlag.noZeroes)
    say(writer)
  }

  /// Sends words of the handshake at the end of the pass; nothing more is understood before they have
  /// been sent, so that no client can have the server pile them up.
  private func say(_ writer: WireWriter) {
    greeting.append(contentsOf: writer.bytes)
    markDirty()
  }

  /// False if there is nothing to take for now, or the connection has ended.
  func takeClientFlags() -> Bool {
    guard end - start >= 4 else { return false }
    clientFlags = unsafe UnsafeRawPointer(received + start).big32(0)
    start += 4
    let known = UInt32(Nbd.HandshakeFlag.fixedNewstyle | Nbd.HandshakeFlag.noZeroes)
    guard clientFlags & ~known == 0 else {
      drop()
      return false
    }
    phase = .options
    return true
  }

  /// Takes an option; false if there is none for now, or the connection has ended.
  func takeOption() -> Bool {
    guard end - start >= Self.optionHeaderBytes else { return false }
    let bytes = unsafe UnsafeRawPointer(received + start)
    guard unsafe bytes.big64(0) == Nbd.optionMagic else {
      drop()
      return false
    }
    // What it asks for may have to be looked for, and the answer is sent before the next is taken.
    spend(4)
    let code = unsafe bytes.big32(8)
    let length = unsafe Int(bytes.big32(12))
    if length > Self.optionBytesMax {
      guard length <= Nbd.payloadBytesMax, code != Nbd.Option.exportName.rawValue else {
        drop()
        return false
      }
      start += Self.optionHeaderBytes
      skipping = length
      reply(code, .tooBig, message: "the option is too long")
      return true
    }
    guard end - start >= Self.optionHeaderBytes + length else { return false }
    let data = unsafe UnsafeRawBufferPointer(start: bytes + Self.optionHeaderBytes, count: length)
    start += Self.optionHeaderBytes + length
    unsafe handle(code, data)
    return phase != .ended
  }

  private func handle(_ code: UInt32, _ data: UnsafeRawBufferPointer) {
    let option = Nbd.Option(rawValue: code)
    if unsafe server.security.isRequired, tls == nil, option != .startTLS, option != .abort {
      guard option != .exportName else { return drop() }
      return reply(code, .tlsRequired, message: "this server wants TLS")
    }
    switch option {
    case .exportName: unsafe exportName(data)
    case .abort:
      reply(code, .ack)
      finish()
    case .list: unsafe list(code, data)
    case .startTLS: unsafe startTLS(code, data)
    case .info: unsafe info(code, data, entersTransmission: false)
    case .go: unsafe info(code, data, entersTransmission: true)
    case .structuredReply:
      guard unsafe data.isEmpty else {
        return reply(code, .invalid, message: "the option has no data")
      }
      isStructured = true
      reply(code, .ack)
    case .listMetaContext: unsafe metaContext(code, data, selects: false)
    case .setMetaContext: unsafe metaContext(code, data, selects: true)
    case nil: reply(code, .unsupported, message: "unknown option")
    }
  }

  private func reply(_ option: UInt32, _ type: Nbd.OptionReply, message: String = "") {
    reply(option, type, Array(message.utf8))
  }

  private func reply(_ option: UInt32, _ type: Nbd.OptionReply, _ data: [UInt8]) {
    var writer = WireWriter()
    writer.put(Nbd.optionReplyMagic)
    writer.put(option)
    writer.put(type.rawValue)
    writer.put(UInt32(data.count))
    writer.put(data)
    say(writer)
  }

  // MARK: - Options

  private func exportName(_ data: UnsafeRawBufferPointer) {
    guard let export = unsafe server.exports.find(Array(data)), unsafe !server.isStopping,
      export.open()
    else {
      return drop()
    }
    var writer = WireWriter()
    writer.put(export.byteCount)
    writer.put(export.flags(structured: isStructured).rawValue)
    if clientFlags & UInt32(Nbd.HandshakeFlag.noZeroes) == 0 { writer.zeroes(124) }
    say(writer)
    unsafe enter(export, name: Array(data))
  }

  /// Goes on to requests, with an export that has been opened.
  private func enter(_ export: Export, name: [UInt8]) {
    self.export = export
    // Contexts hold for the name that they were asked for.
    sendsStatus = isStructured && contextExport == name
    table = unsafe SlotTable(server.limits.requestsPerConnection, owner: self)
    phase = .transmission
  }

  private func list(_ code: UInt32, _ data: UnsafeRawBufferPointer) {
    guard unsafe data.isEmpty else {
      return reply(code, .invalid, message: "the option has no data")
    }
    listing = unsafe (server.exports.exports[...], code)
    continueList()
  }

  /// Bytes of a list that are made at a time; there may be thousands of exports.
  private static var listBytes: Int { 8 << 10 }

  /// Tells more of the exports, now that what was told before has been sent.
  func continueList() {
    guard let (exports, code) = listing else { return }
    var rest = exports
    while greeting.count < Self.listBytes, let export = rest.popFirst() {
      var writer = WireWriter()
      writer.put(UInt32(export.name.utf8.count))
      writer.put(export.name)
      writer.put(export.summary)
      reply(code, .server, writer.bytes)
    }
    spend(50)
    if rest.isEmpty {
      listing = nil
      reply(code, .ack)
    } else {
      listing = (rest, code)
    }
  }

  private func info(_ code: UInt32, _ data: UnsafeRawBufferPointer, entersTransmission: Bool) {
    var reader = unsafe WireReader(data)
    guard let name = reader.string(), let count = reader.integer(UInt16.self) else {
      return reply(code, .invalid, message: "the option is malformed")
    }
    var wanted: [Nbd.Info] = []
    for _ in 0..<count {
      guard let number = reader.integer(UInt16.self) else {
        return reply(code, .invalid, message: "the option is malformed")
      }
      if let info = Nbd.Info(rawValue: number), !wanted.contains(info) { wanted.append(info) }
    }
    guard reader.isAtEnd else { return reply(code, .invalid, message: "the option is malformed") }
    guard unsafe !server.isStopping else {
      return reply(code, .shutdown, message: "the server is stopping")
    }
    guard let export = unsafe server.exports.find(name) else {
      return reply(code, .unknown, message: "there is no such export")
    }
    if entersTransmission, !export.open() {
      return reply(code, .unknown, message: "the export cannot be opened")
    }
    if !wanted.contains(.export) { wanted.append(.export) }
    for info in wanted { tell(info, export, code) }
    reply(code, .ack)
    if entersTransmission { enter(export, name: name) }
  }

  private func tell(_ info: Nbd.Info, _ export: Export, _ code: UInt32) {
    var writer = WireWriter()
    writer.put(info.rawValue)
    switch info {
    case .export:
      writer.put(export.byteCount)
      writer.put(export.flags(structured: isStructured).rawValue)
    case .name: writer.put(export.name)
    case .description: writer.put(export.summary)
    case .blockSize:
      writer.put(UInt32(export.destination.logicalBlockBytes))
      writer.put(UInt32(max(export.preferredBytes, export.destination.logicalBlockBytes)))
      writer.put(UInt32(Nbd.payloadBytesMax))
    }
    reply(code, .info, writer.bytes)
  }

  private func metaContext(_ code: UInt32, _ data: UnsafeRawBufferPointer, selects: Bool) {
    if selects { contextExport = nil }
    var reader = unsafe WireReader(data)
    guard isStructured else {
      return reply(code, .invalid, message: "structured replies have to be agreed on first")
    }
    guard let name = reader.string(), let count = reader.integer(UInt32.self) else {
      return reply(code, .invalid, message: "the option is malformed")
    }
    var isWanted = count == 0 && !selects
    // Each query takes four bytes at least, so that the option's length bounds the loop.
    for _ in 0..<count {
      guard let query = reader.string(), query.count <= Nbd.stringBytesMax else {
        return reply(code, .invalid, message: "the option is malformed")
      }
      if query.elementsEqual(Nbd.allocationContext.utf8) { isWanted = true }
      if query.elementsEqual("base:".utf8), !selects { isWanted = true }
    }
    guard reader.isAtEnd else { return reply(code, .invalid, message: "the option is malformed") }
    guard unsafe server.exports.find(name) != nil else {
      return reply(code, .unknown, message: "there is no such export")
    }
    if isWanted {
      var writer = WireWriter()
      writer.put(selects ? Nbd.allocationContextID : 0)
      writer.put(Nbd.allocationContext)
      reply(code, .metaContext, writer.bytes)
      if selects { contextExport = name }
    }
    reply(code, .ack)
  }

  // MARK: - TLS

  private func startTLS(_ code: UInt32, _ data: UnsafeRawBufferPointer) {
    guard unsafe data.isEmpty, tls == nil else {
      return reply(code, .invalid, message: "not now, or not so")
    }
    guard unsafe server.security.isOffered else {
      return reply(code, .unsupported, message: "this server has no TLS")
    }
    // What came before counts for nothing, and what came along may be another sender's.
    guard start == end else { return drop() }
    isStructured = false
    contextExport = nil
    reply(code, .ack)
    isStartingTLS = true
  }

  /// The client knows that TLS begins.
  func startTLS() {
    guard start == end else { return drop() }
    guard unsafe server.admitsHandshake(self) else { return }
    isStartingTLS = false
    guard let session = unsafe server.security.makeSession(descriptor) else { return drop() }
    tls = session
    fix(TLSSession.bytes)
    phase = .tlsHandshake
    continueTLS()
  }

  /// Goes on with the handshake of TLS.
  func continueTLS() {
    guard unsafe server.turns.takeHandshake() else {
      yieldForMore()
      return updateInterest()
    }
    switch tls?.shakeHands() {
    case .done:
      phase = .options
      receiveAgain()
    case .again: break
    case .failed, nil: drop()
    }
    updateInterest()
  }
}
