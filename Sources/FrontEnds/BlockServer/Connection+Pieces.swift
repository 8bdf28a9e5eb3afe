import BlockIO
import DataPath

/// Requests that are done piece by piece, so that none takes long in one pass of the loop, or takes
/// thousands of parts on the way down.
extension Connection {
  /// Hands a request to the destination, or its first piece.
  func submitFirst(_ index: Int, _ export: Export) {
    guard let table else { return }
    let slot = unsafe table.slots + index
    let most = unsafe Self.pieceBytes(slot.pointee.command, slot.pointee.flags, export)
    if unsafe UInt64(slot.pointee.length) > most {
      let end = unsafe Self.pieceEnd(slot.pointee.offset, slot.pointee, most, export)
      unsafe slot.pointee.next = end
      unsafe table.requests[index].byteCount = Int(end - slot.pointee.offset)
    }
    submit(index, export)
  }

  /// Goes on with the next piece; called from a later pass. The request counts as the destination's until
  /// then.
  func continuePiece(_ index: Int) {
    inFlight -= 1
    guard phase != .ended else {
      release(index)
      return endIfUnused()
    }
    guard let table, let export else { return }
    let slot = unsafe table.slots[index]
    let end = Self.pieceEnd(slot.next, slot, Self.pieceBytes(slot, export), export)
    let request = unsafe table.requests + index
    switch slot.command {
    case Nbd.Command.read: unsafe request.pointee.operation = .read
    case Nbd.Command.trim: unsafe request.pointee.operation = .discard
    case Nbd.Command.writeZeroes where !slot.writesZeroes:
      unsafe request.pointee.operation = .writeZeroes
    default: unsafe request.pointee.operation = .write
    }
    if slot.writesZeroes { unsafe request.pointee.flags = [] }
    unsafe request.pointee.offset = slot.next
    unsafe request.pointee.byteCount = Int(end - slot.next)
    unsafe request.pointee.memory = RequestMemory(
      slot.writesZeroes
        ? server.zeroes.bytes.baseAddress
        : slot.buffer.map { unsafe $0.bytes + Int(slot.next - slot.offset) })
    unsafe table.slots[index].next = end
    spend(Int((end - slot.next) >> 20) + 1)
    submit(index, export)
  }

  /// The most that one piece of a request has. What unmaps whole blocks takes no more for many than for
  /// few; what writes takes a part for each block.
  private static func pieceBytes(_ slot: Slot, _ export: Export) -> UInt64 {
    slot.writesZeroes
      ? UInt64(BlockServer.zeroBytes) : pieceBytes(slot.command, slot.flags, export)
  }

  /// The same of a request that is as the client sent it.
  static func pieceBytes(_ command: UInt16, _ flags: UInt16, _ export: Export) -> UInt64 {
    switch command {
    case Nbd.Command.trim: return max(256 << 20, UInt64(export.destination.discardBytes))
    case Nbd.Command.writeZeroes where flags & Nbd.CommandFlag.noHole == 0:
      return max(64 << 20, UInt64(export.destination.discardBytes))
    default: return 4 << 20
    }
  }

  /// Where the piece ends that begins at `start`: at the end of a block as far as one is, or what is unmapped
  /// would have an end in two pieces and stay.
  private static func pieceEnd(_ start: UInt64, _ slot: Slot, _ most: UInt64, _ export: Export)
    -> UInt64
  {
    let end = slot.offset + UInt64(slot.length)
    guard end - start > most else { return end }
    let unit = UInt64(max(1, export.destination.discardBytes))
    let stop = start + most
    let aligned = stop - stop % unit
    return aligned > start ? aligned : stop
  }
}
