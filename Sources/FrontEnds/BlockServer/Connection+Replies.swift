import DataPath
import Glibc

/// Replies: how they look, and how they leave.
extension Connection {
  // MARK: - Completions

  /// The destination is done with a request.
  func complete(_ request: RequestPointer) {
    let index = unsafe Int(request.pointee.tag)
    inFlight -= 1
    guard phase != .ended else {
      release(index)
      endIfUnused()
      return
    }
    guard let slot = unsafe table.map({ unsafe $0.slots + index }), let export else { return }
    let code = unsafe request.pointee.errorNumber
    guard code == 0 else {
      fail(index, code, export)
      return
    }
    if unsafe slot.pointee.hasNextPiece {
      // What has been done so far may have taken its time.
      inFlight += 1
      unsafe server.turns.later(self, slot: index)
      return
    }
    switch unsafe slot.pointee.stage {
    case .last:
      if unsafe slot.pointee.command == Nbd.Command.read {
        replyData(index)
      } else {
        replyDone(index)
      }
    case .flush:
      submitFlush(index, export)
    }
  }

  /// The last step of what has to be durable.
  private func submitFlush(_ index: Int, _ export: Export) {
    guard let table else { return }
    unsafe table.slots[index].stage = .last
    unsafe table.requests[index].operation = .flush
    unsafe table.requests[index].flags = []
    unsafe table.requests[index].offset = 0
    unsafe table.requests[index].byteCount = 0
    submit(index, export)
  }

  private func fail(_ index: Int, _ code: Int32, _ export: Export) {
    guard let table else { return }
    let request = unsafe table.requests + index
    if code == EOPNOTSUPP, unsafe request.pointee.operation == .discard {
      // A hint that was of no use is no error.
      replyDone(index)
      return
    }
    if code == EOPNOTSUPP, unsafe request.pointee.operation == .writeZeroes,
      unsafe table.slots[index].flags & Nbd.CommandFlag.fastZero == 0
    {
      // From the start: some pieces may be zeros already, which does no harm.
      unsafe table.slots[index].writesZeroes = true
      unsafe table.slots[index].next = table.slots[index].offset
      inFlight += 1
      unsafe server.turns.later(self, slot: index)
      return
    }
    guard unsafe table.slots[index].headerBytes == 0 else { return }
    replyError(index, Refusal(Self.map(code), Self.message(code)))
  }

  private static func map(_ code: Int32) -> NbdError {
    switch code {
    case EPERM, EACCES, EROFS: .permission
    case ENOMEM: .noMemory
    case EINVAL: .invalid
    case ENOSPC, EDQUOT, EFBIG: .noSpace
    case EOVERFLOW: .overflow
    case EOPNOTSUPP, ENOSYS: .notSupported
    case ESHUTDOWN: .shutdown
    default: .inputOutput
    }
  }

  private static func message(_ code: Int32) -> StaticString {
    if code == EFBIG { return "the server may not write files as large as that (ulimit -f)" }
    return switch map(code) {
    case .permission: "the volume is read-only"
    case .noSpace: "no space left in the pool"
    case .inputOutput: "the device failed"
    default: "refused by the device"
    }
  }

  // MARK: - What replies look like

  private func enqueue(_ index: Int) {
    table?.appendReply(index)
    markDirty()
  }

  /// Success, without data.
  func replyDone(_ index: Int) {
    guard let table else { return }
    if isStructured, unsafe table.slots[index].command == Nbd.Command.read {
      putChunk(index, Nbd.Chunk.none, payload: 0)
    } else {
      putSimple(index, 0)
    }
    enqueue(index)
  }

  /// The data of a read.
  private func replyData(_ index: Int) {
    guard let table else { return }
    let slot = unsafe table.slots + index
    if unsafe slot.pointee.vectors == nil {
      let count = unsafe slot.pointee.length
      unsafe slot.pointee.payload = slot.pointee.buffer?.bytes
      unsafe slot.pointee.payloadBytes = count
      if isStructured {
        putChunk(index, Nbd.Chunk.offsetData, payload: 8 + count)
        unsafe table.header(index).putBig(slot.pointee.offset, Nbd.chunkBytes)
        unsafe slot.pointee.headerBytes = Nbd.chunkBytes + 8
      } else {
        putSimple(index, 0)
      }
    }
    enqueue(index)
  }

  /// An error, with its message where the client understands one.
  func replyError(_ index: Int, _ refusal: Refusal) {
    guard let table else { return }
    unsafe server.tally.errors += 1
    unsafe table.slots[index].vectors = nil
    unsafe table.slots[index].payloadBytes = 0
    if isStructured {
      let room = SlotTable.headerBytes - Nbd.chunkBytes - 6
      let length = min(refusal.message.utf8CodeUnitCount, room)
      putChunk(index, Nbd.Chunk.error, payload: 6 + length)
      let header = unsafe table.header(index)
      unsafe header.putBig(refusal.error.rawValue, Nbd.chunkBytes)
      unsafe header.putBig(UInt16(length), Nbd.chunkBytes + 4)
      unsafe (header + Nbd.chunkBytes + 6).copyMemory(
        from: refusal.message.utf8Start, byteCount: length)
      unsafe table.slots[index].headerBytes = Nbd.chunkBytes + 6 + length
    } else {
      putSimple(index, refusal.error.rawValue)
    }
    enqueue(index)
  }

  private func putSimple(_ index: Int, _ error: UInt32) {
    guard let table else { return }
    let header = unsafe table.header(index)
    unsafe header.putBig(Nbd.simpleReplyMagic, 0)
    unsafe header.putBig(error, 4)
    unsafe header.storeBytes(of: table.slots[index].cookie, toByteOffset: 8, as: UInt64.self)
    unsafe table.slots[index].headerBytes = Nbd.simpleReplyBytes
  }

  private func putChunk(_ index: Int, _ type: UInt16, payload: Int) {
    guard let table else { return }
    unsafe Self.putChunk(
      table.header(index), cookie: table.slots[index].cookie, Nbd.Chunk.done, type, payload)
    unsafe table.slots[index].headerBytes = Nbd.chunkBytes
  }

  private static func putChunk(
    _ header: UnsafeMutableRawPointer, cookie: UInt64, _ flags: UInt16, _ type: UInt16,
    _ payload: Int
  ) {
    unsafe header.putBig(Nbd.structuredReplyMagic, 0)
    unsafe header.putBig(flags, 4)
    unsafe header.putBig(type, 6)
    unsafe header.storeBytes(of: cookie, toByteOffset: 8, as: UInt64.self)
    unsafe header.putBig(UInt32(payload), 16)
  }

  // MARK: - Holes

  /// Answers a read of a range that is a hole altogether; false if it is not.
  func replyHole(_ index: Int, _ export: Export, _ offset: UInt64, _ length: Int) -> Bool {
    guard let table, runs(export, offset, length, max: 1) == 1, unsafe server.runs[0].isZero else {
      return false
    }
    putChunk(index, Nbd.Chunk.offsetHole, payload: 12)
    let header = unsafe table.header(index)
    unsafe header.putBig(offset, Nbd.chunkBytes)
    unsafe header.putBig(UInt32(length), Nbd.chunkBytes + 8)
    unsafe table.slots[index].headerBytes = Nbd.chunkBytes + 12
    enqueue(index)
    return true
  }

  /// Lays out the reply to a read of a range with holes in it. Without holes, or with too many, there
  /// is none, and the reply is one piece.
  func planPieces(_ index: Int, _ export: Export, _ offset: UInt64, _ length: Int) {
    let count = runs(export, offset, length, max: BlockServer.runsMax)
    // It is not worth waiting for.
    guard count > 1, unsafe server.hasRoom(ServerBuffers.bytesMin, used: bytesInUse), let table,
      let buffer = unsafe table.slots[index].buffer,
      let plan = unsafe server.buffers.take(ServerBuffers.bytesMin)
    else { return }
    unsafe table.slots[index].plan = plan
    charge(index, plan.count)
    let vectors = unsafe plan.bytes.bindMemory(to: iovec.self, capacity: 2 * count)
    var header = unsafe plan.bytes + 2 * count * MemoryLayout<iovec>.stride
    var vectorCount = 0
    var done = 0
    for i in 0..<count {
      let run = unsafe server.runs[i]
      let isLast = i == count - 1
      let type = run.isZero ? Nbd.Chunk.offsetHole : Nbd.Chunk.offsetData
      unsafe Self.putChunk(
        header, cookie: table.slots[index].cookie, isLast ? Nbd.Chunk.done : 0, type,
        run.isZero ? 12 : 8 + run.count)
      unsafe header.putBig(offset + UInt64(done), Nbd.chunkBytes)
      if run.isZero { unsafe header.putBig(UInt32(run.count), Nbd.chunkBytes + 8) }
      unsafe vectors[vectorCount] = iovec(
        iov_base: header, iov_len: Nbd.chunkBytes + (run.isZero ? 12 : 8))
      vectorCount += 1
      if !run.isZero {
        unsafe vectors[vectorCount] = iovec(iov_base: buffer.bytes + done, iov_len: run.count)
        vectorCount += 1
      }
      unsafe header += 32
      done += run.count
    }
    unsafe table.slots[index].vectors = vectors
    unsafe table.slots[index].vectorCount = vectorCount
  }

  /// Finds runs of holes and data in a range, into `server.runs`. Returns how many; 0 if there are more
  /// than `max`.
  private func runs(_ export: Export, _ offset: UInt64, _ length: Int, max: Int) -> Int {
    let runs = unsafe server.runs
    let end = offset + UInt64(length)
    var next = offset
    var count = 0
    var isTooMany = false
    look(export, offset..<end) { extent in
      let upper = min(end, extent.offset + extent.byteCount)
      guard upper > next else { return true }
      let isZero = extent.isZero && !extent.isAllocated
      if count > 0, unsafe runs[count - 1].isZero == isZero {
        unsafe runs[count - 1].count += Int(upper - next)
      } else if count == max {
        isTooMany = true
        return false
      } else {
        unsafe runs[count] = BlockServer.Run(count: Int(upper - next), isZero: isZero)
        count += 1
      }
      next = upper
      return true
    }
    return isTooMany || next < end ? 0 : count
  }

  // MARK: - Block status

  /// Answers with what is allocated and what reads as zeros: as far as can be told in one go, which the
  /// protocol leaves to the server. Where not even the first extent is known, it is waited for once.
  func replyStatus(
    _ index: Int, _ export: Export, _ offset: UInt64, _ length: Int, isLoaded: Bool = false
  ) {
    guard let table else { return }
    let isSingle = unsafe table.slots[index].flags & Nbd.CommandFlag.onlyOne != 0
    let states = unsafe server.states
    let most = isSingle ? 1 : BlockServer.statesMax
    let end = offset + UInt64(length)
    var (next, count, steps) = (offset, 0, 0)
    var state: UInt32 = 0
    var isMissing = false
    look(export, offset..<end) { extent in
      if !extent.isKnown, next > offset || !isLoaded {
        isMissing = next == offset
        return false
      }
      let upper = min(end, extent.offset + extent.byteCount)
      guard upper > next else { return true }
      let now = (extent.isAllocated ? 0 : Nbd.State.hole) | (extent.isZero ? Nbd.State.zero : 0)
      if count > 0, now == state {
        let at = (count - 1) * 8
        unsafe states.putBig(UnsafeRawPointer(states).big32(at) + UInt32(upper - next), at)
      } else if count == most {
        return false
      } else {
        unsafe states.putBig(UInt32(upper - next), count * 8)
        unsafe states.putBig(now, count * 8 + 4)
        count += 1
        state = now
      }
      next = upper
      steps += 1
      return steps < BlockServer.statesMax
    }
    if isMissing {
      return whenKnown(index, export, offset..<end) {
        $0.replyStatus(index, export, offset, length, isLoaded: true)
      }
    }
    if count == 0 {
      // Whatever is not known may hold data.
      unsafe states.putBig(UInt32(length), 0)
      unsafe states.putBig(UInt32(0), 4)
      count = 1
    }
    let header = unsafe table.header(index)
    if isSingle {
      unsafe (header + Nbd.chunkBytes + 4).copyMemory(from: states, byteCount: 8)
    } else {
      guard let buffer = takeBuffer(index, 8 * count) else { return }
      unsafe buffer.bytes.copyMemory(from: states, byteCount: 8 * count)
      unsafe table.slots[index].payload = buffer.bytes
      unsafe table.slots[index].payloadBytes = 8 * count
    }
    putChunk(index, Nbd.Chunk.blockStatus, payload: 4 + 8 * count)
    unsafe header.putBig(Nbd.allocationContextID, Nbd.chunkBytes)
    unsafe table.slots[index].headerBytes = Nbd.chunkBytes + 4 + (isSingle ? 8 : 0)
    enqueue(index)
  }

  // MARK: - Sending

  /// Bytes that are sent in a pass.
  private static var sendBytesMax: Int { 1 << 20 }

  /// Sends replies as far as the client takes them; false if the connection has ended.
  func sendReplies() -> Bool {
    var left = Self.sendBytesMax
    while let first = table?.firstReply, first >= 0 {
      guard left > 0 else {
        yieldForMore(sending: true)
        return true
      }
      let count = gather(first)
      let n = unsafe send(server.vectors, count)
      guard n > 0 else { return n == 0 }
      left -= n
      spend(n >> 14)
      var sent = sentOfFirst + n
      while let table, table.firstReply >= 0 {
        let bytes = unsafe table.slots[table.firstReply].replyBytes
        guard sent >= bytes else { break }
        sent -= bytes
        if let index = self.table?.takeReply() { release(index) }
      }
      sentOfFirst = sent
    }
    return finishRecord()
  }

  /// Lists in `server.vectors` what is to be sent, from the reply `first` on.
  private func gather(_ first: Int) -> Int {
    guard let table else { return 0 }
    let vectors = unsafe server.vectors
    var count = 0
    var skip = sentOfFirst
    func add(_ base: UnsafeMutableRawPointer?, _ length: Int) {
      guard length > skip else {
        skip -= length
        return
      }
      unsafe vectors[count] = iovec(iov_base: base.map { unsafe $0 + skip }, iov_len: length - skip)
      count += 1
      skip = 0
    }
    var index = first
    while index >= 0 {
      let slot = unsafe table.slots + index
      guard unsafe count + max(2, slot.pointee.vectorCount) <= BlockServer.vectorsMax else { break }
      if let pieces = unsafe slot.pointee.vectors {
        for i in unsafe 0..<slot.pointee.vectorCount {
          unsafe add(pieces[i].iov_base, pieces[i].iov_len)
        }
      } else {
        unsafe add(table.header(index), slot.pointee.headerBytes)
        if unsafe slot.pointee.payloadBytes > 0 {
          unsafe add(slot.pointee.payload, slot.pointee.payloadBytes)
        }
      }
      index = unsafe slot.pointee.nextSlot
    }
    return count
  }
}
