import DataPath
import Glibc

/// Understanding requests.
extension Connection {
  /// Why a request is refused, for the client and for its user.
  struct Refusal {
    let error: NbdError
    let message: StaticString
    init(_ error: NbdError, _ message: StaticString) {
      self.error = error
      self.message = message
    }
  }

  private struct Header {
    let flags: UInt16
    let command: UInt16
    let cookie: UInt64
    let offset: UInt64
    let length: Int

    init(_ bytes: UnsafeRawPointer) {
      flags = unsafe bytes.big16(4)
      command = unsafe bytes.big16(6)
      cookie = unsafe bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
      offset = unsafe bytes.big64(16)
      length = unsafe Int(bytes.big32(24))
    }
  }

  /// Takes a request, or more of a write's payload. False if there is nothing to take for now.
  func takeRequest() -> Bool {
    if payloadSlot >= 0 { return takePayload() }
    guard end - start >= Nbd.requestBytes else { return false }
    let bytes = unsafe UnsafeRawPointer(received + start)
    guard unsafe bytes.big32(0) == Nbd.requestMagic else {
      drop()
      return false
    }
    let header = unsafe Header(bytes)
    if header.command == Nbd.Command.disconnect {
      finish()
      return false
    }
    let isWrite = header.command == Nbd.Command.write
    guard !isWrite || header.length <= Nbd.payloadBytesMax else {
      drop()
      return false
    }
    guard let export, let table, table.hasFree else { return pause(0) }
    spend(1)
    if let refusal = check(header, export) {
      start += Nbd.requestBytes
      if isWrite { skipping = header.length }
      replyError(take(header), refusal)
      return true
    }
    let needed = bytesNeeded(header)
    guard hasRoom(needed) else { return pause(needed) }
    start += Nbd.requestBytes
    perform(header, export)
    return true
  }

  /// The most that the buffers for a request, its data and its reply take.
  private func bytesNeeded(_ header: Header) -> Int {
    guard header.length > 0 else { return 0 }
    switch header.command {
    case Nbd.Command.read, Nbd.Command.write: return ServerBuffers.bytes(for: header.length)
    case Nbd.Command.blockStatus:
      let isSingle = header.flags & Nbd.CommandFlag.onlyOne != 0
      return isSingle ? 0 : ServerBuffers.bytes(for: 8 * BlockServer.statesMax)
    case Nbd.Command.trim, Nbd.Command.writeZeroes: return bytesOfParts(header)
    default: return 0
    }
  }

  /// What a request without data takes on its way down: what writes zeros may become a part for each block
  /// of a piece.
  private func bytesOfParts(_ header: Header) -> Int {
    var parts = Self.partsMin
    if header.command == Nbd.Command.writeZeroes, let export {
      let piece = min(
        UInt64(header.length), Self.pieceBytes(header.command, header.flags, export))
      parts += Int(clamping: piece / UInt64(max(4096, export.destination.discardBytes)))
    }
    return parts * MemoryLayout<BlockRequest>.stride
  }

  /// The least that is counted, with what a destination keeps of a request besides.
  private static var partsMin: Int { 8 }

  /// Whether holes are looked for in what is to be read.
  private func mayPlan(_ header: Header) -> Bool {
    isStructured && header.flags & Nbd.CommandFlag.dontFragment == 0
      && header.length >= Self.sparseBytesMin
  }

  private func take(_ header: Header) -> Int {
    guard
      let (slot, isNew) = table?.take(
        cookie: header.cookie, command: header.command, flags: header.flags,
        offset: header.offset, length: header.length)
    else { preconditionFailure("requests come after the handshake") }
    if isNew { fix(SlotTable.bytesPerSlot) }
    return slot
  }

  private func hasRoom(_ bytes: Int) -> Bool {
    guard bytes > 0 else { return true }
    guard unsafe bytesInUse == 0 || bytesInUse + bytes <= server.limits.bytesPerConnection else {
      return false
    }
    if unsafe server.hasRoom(bytes, used: bytesInUse) { return true }
    if !isWaitingForServer {
      isWaitingForServer = true
      unsafe server.wait(self)
    }
    return false
  }

  private func pause(_ bytes: Int) -> Bool {
    isPaused = true
    bytesWanted = bytes
    return false
  }

  // MARK: - Checks

  private func check(_ header: Header, _ export: Export) -> Refusal? {
    let allowed: UInt16
    switch header.command {
    case Nbd.Command.read:
      allowed = Nbd.CommandFlag.fua | (isStructured ? Nbd.CommandFlag.dontFragment : 0)
    case Nbd.Command.write, Nbd.Command.flush, Nbd.Command.trim, Nbd.Command.cache:
      allowed = Nbd.CommandFlag.fua
    case Nbd.Command.writeZeroes:
      allowed = Nbd.CommandFlag.fua | Nbd.CommandFlag.noHole | Nbd.CommandFlag.fastZero
    case Nbd.Command.blockStatus:
      allowed = Nbd.CommandFlag.fua | Nbd.CommandFlag.onlyOne
    default: return Refusal(.invalid, "unknown command")
    }
    guard header.flags & ~allowed == 0 else {
      return Refusal(.invalid, "flags that the command does not have")
    }
    if header.command == Nbd.Command.flush {
      return header.offset == 0 && header.length == 0
        ? nil : Refusal(.invalid, "a flush has no offset and no length")
    }
    return checkRange(header, export)
  }

  private func checkRange(_ header: Header, _ export: Export) -> Refusal? {
    let isWriting =
      header.command == Nbd.Command.write || header.command == Nbd.Command.writeZeroes
    if export.isReadOnly, isWriting || header.command == Nbd.Command.trim {
      return Refusal(.permission, "the export is read-only")
    }
    let size = export.byteCount
    guard header.offset <= size, UInt64(header.length) <= size - header.offset else {
      return Refusal(isWriting ? .noSpace : .invalid, "beyond the end of the export")
    }
    let mask = UInt64(export.destination.logicalBlockBytes - 1)
    guard (header.offset | UInt64(header.length)) & mask == 0 else {
      return Refusal(.invalid, "not a multiple of the smallest block size")
    }
    switch header.command {
    case Nbd.Command.read where header.length > Nbd.payloadBytesMax:
      return Refusal(.overflow, "more than 32 MiB at once")
    case Nbd.Command.trim where !export.destination.takesDiscards:
      return Refusal(.invalid, "the export takes no discards")
    case Nbd.Command.blockStatus where !sendsStatus:
      return Refusal(.invalid, "no metadata context was agreed on")
    case Nbd.Command.blockStatus where header.length == 0:
      return Refusal(.invalid, "the status of nothing")
    default: return nil
    }
  }

  // MARK: - Commands

  private func perform(_ header: Header, _ export: Export) {
    let slot = take(header)
    if header.length == 0, header.command != Nbd.Command.flush {
      replyDone(slot)
      return
    }
    switch header.command {
    case Nbd.Command.read: read(slot, header, export)
    case Nbd.Command.write:
      guard let buffer = takeBuffer(slot, header.length) else {
        skipping = header.length
        return
      }
      unsafe server.tally.writes += 1
      unsafe server.tally.bytesWritten += UInt64(header.length)
      // Large payloads are best received where they belong: little of them comes with the header.
      receiveLimit = header.length >= 64 << 10 ? ServerBuffers.bytesMin : Self.receiveBytes
      unsafe prepare(slot, .write, header, buffer.bytes)
      payloadSlot = slot
      payloadReceived = 0
    case Nbd.Command.flush:
      unsafe server.tally.flushes += 1
      unsafe prepare(slot, .flush, header, nil)
      submit(slot, export)
    case Nbd.Command.trim:
      unsafe server.tally.discards += 1
      unsafe prepare(slot, .discard, header, nil)
      charge(slot, bytesOfParts(header))
      makeDurableAfterwards(slot, header)
      submitFirst(slot, export)
    case Nbd.Command.writeZeroes: writeZeroes(slot, header, export)
    case Nbd.Command.blockStatus: replyStatus(slot, export, header.offset, header.length)
    default:
      // There is no cache that could be filled.
      replyDone(slot)
    }
  }

  /// Calls `body` when it can be told what `range` (bytes) begins with. The request counts as the
  /// destination's until then.
  func whenKnown(
    _ slot: Int, _ export: Export, _ range: Range<UInt64>, _ body: @escaping (Connection) -> Void
  ) {
    inFlight += 1
    export.destination.loadExtent(in: range) {
      self.inFlight -= 1
      guard self.phase != .ended else {
        self.release(slot)
        return self.endIfUnused()
      }
      body(self)
    }
  }

  private func prepare(
    _ slot: Int, _ operation: BlockOperation, _ header: Header, _ buffer: UnsafeMutableRawPointer?
  ) {
    guard let request = unsafe table.map({ unsafe $0.requests + slot }) else { return }
    unsafe request.pointee.operation = operation
    unsafe request.pointee.flags =
      operation == .write && header.flags & Nbd.CommandFlag.fua != 0 ? .durable : []
    unsafe request.pointee.offset = header.offset
    unsafe request.pointee.byteCount = header.length
    unsafe request.pointee.memory = RequestMemory(buffer)
  }

  /// Hands a request to the destination.
  func submit(_ slot: Int, _ export: Export) {
    guard let request = unsafe table.map({ unsafe $0.requests + slot }) else { return }
    inFlight += 1
    unsafe export.destination.submit(request)
  }

  private func makeDurableAfterwards(_ slot: Int, _ header: Header) {
    if header.flags & Nbd.CommandFlag.fua != 0 { unsafe table?.slots[slot].stage = .flush }
  }

  private func read(_ slot: Int, _ header: Header, _ export: Export) {
    unsafe server.tally.reads += 1
    unsafe server.tally.bytesRead += UInt64(header.length)
    spend(header.length >> 18)
    let mayPlan = mayPlan(header)
    if mayPlan, replyHole(slot, export, header.offset, header.length) { return }
    guard let buffer = takeBuffer(slot, header.length) else { return }
    if mayPlan { planPieces(slot, export, header.offset, header.length) }
    unsafe prepare(slot, .read, header, buffer.bytes)
    submitFirst(slot, export)
  }

  /// Shorter reads are not asked for holes: it would take longer than sending zeros.
  private static var sparseBytesMin: Int { 32 << 10 }

  /// `loaded` is the offset in bytes at which it was not known before what the range holds.
  private func writeZeroes(
    _ slot: Int, _ header: Header, _ export: Export, loaded: UInt64? = nil
  ) {
    if loaded == nil { unsafe server.tally.zeroes += 1 }
    let mayPunch = header.flags & Nbd.CommandFlag.noHole == 0
    let range = header.offset..<header.offset + UInt64(header.length)
    let found = mayPunch ? content(of: export, range) : .other
    if case .unknown(let offset) = found, loaded.map({ offset > $0 }) ?? true {
      return whenKnown(slot, export, offset..<range.upperBound) {
        $0.writeZeroes(slot, header, export, loaded: offset)
      }
    }
    if case .hole = found {
      // Nothing to do but what a flag asks for.
      guard header.flags & Nbd.CommandFlag.fua != 0 else { return replyDone(slot) }
      unsafe prepare(slot, .flush, header, nil)
      unsafe table?.requests[slot].offset = 0
      unsafe table?.requests[slot].byteCount = 0
      submit(slot, export)
      return
    }
    if header.flags & Nbd.CommandFlag.fastZero != 0, !export.destination.zeroesFast {
      replyError(slot, Refusal(.notSupported, "not faster than writing"))
      return
    }
    unsafe prepare(slot, .writeZeroes, header, nil)
    charge(slot, bytesOfParts(header))
    if !mayPunch { unsafe table?.requests[slot].flags.insert(.keepAllocated) }
    makeDurableAfterwards(slot, header)
    submitFirst(slot, export)
  }

  private enum Content {
    /// Nothing, which reads as zeros and stays so.
    case hole
    /// Something, or many extents.
    case other
    /// A hole up to this offset in bytes; what follows is not known without waiting.
    case unknown(from: UInt64)
  }

  private func content(of export: Export, _ range: Range<UInt64>) -> Content {
    guard export.destination.holesStayZero else { return .other }
    var content = Content.hole
    var steps = 0
    // A destination may have many runs to tell of; one that is not a hole is enough, and looking for it
    // without end would keep others waiting.
    look(export, range) { extent in
      steps += 1
      if !extent.isKnown {
        content = .unknown(from: max(range.lowerBound, extent.offset))
      } else if !extent.isZero || extent.isAllocated || steps >= BlockServer.statesMax {
        content = .other
      } else {
        return true
      }
      return false
    }
    return content
  }

  // MARK: - Buffers

  /// A buffer for a slot. Where there is no memory the slot is answered so, and nil returned.
  func takeBuffer(_ slot: Int, _ count: Int) -> ServerBuffers.Buffer? {
    // A copy: a change through the property is an access that is checked when the program runs.
    guard let table, let buffer = unsafe server.buffers.take(count) else {
      replyError(slot, Refusal(.noMemory, "out of memory"))
      return nil
    }
    unsafe table.slots[slot].buffer = buffer
    charge(slot, buffer.count)
    return buffer
  }

  func charge(_ slot: Int, _ bytes: Int) {
    guard let table else { return }
    unsafe table.slots[slot].charged += bytes
    unsafe server.charge(bytes, used: bytesInUse)
    bytesInUse += bytes
  }

  /// Gives back a slot with all it has.
  func release(_ index: Int) {
    guard let slot = unsafe table.map({ unsafe $0.slots + index }) else { return }
    if let buffer = unsafe slot.pointee.buffer { unsafe server.buffers.give(buffer) }
    if let plan = unsafe slot.pointee.plan { unsafe server.buffers.give(plan) }
    unsafe slot.pointee.buffer = nil
    unsafe slot.pointee.plan = nil
    unsafe slot.pointee.vectors = nil
    unsafe slot.pointee.payload = nil
    if unsafe slot.pointee.charged > 0 {
      unsafe bytesInUse -= slot.pointee.charged
      unsafe server.refund(slot.pointee.charged, used: bytesInUse)
      unsafe slot.pointee.charged = 0
    }
    table?.give(index)
  }

  /// A write whose payload has been received, and that is to be submitted.
  var isPayloadWhole: Bool {
    guard payloadSlot >= 0, let table else { return false }
    return unsafe payloadReceived == table.slots[payloadSlot].length
  }

  /// Takes what was received of a payload along with the header; the rest is received in its place.
  private func takePayload() -> Bool {
    guard let export, let table, let buffer = unsafe table.slots[payloadSlot].buffer else {
      return false
    }
    let rest = unsafe table.slots[payloadSlot].length - payloadReceived
    let count = min(rest, end - start)
    unsafe (buffer.bytes + payloadReceived).copyMemory(from: received + start, byteCount: count)
    start += count
    payloadReceived += count
    guard count == rest else { return false }
    let slot = payloadSlot
    payloadSlot = -1
    submitFirst(slot, export)
    return true
  }
}
