import ThinFormat

/// Unpacks the output of `BlockPacker`, or of the original tools.
struct BlockUnpacker {
  /// The reason why a chunk cannot be unpacked, and the place in it.
  struct Fault: Error {
    let at: Int
    let what: String
  }

  private let bytes: [UInt8]
  private var at = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Whether all blocks were unpacked.
  var isAtEnd: Bool { at == bytes.count }

  /// The use of a number built by an instruction.
  private enum Part {
    case whole
    /// The upper part of a word, which comes first.
    case upper
    /// The lower 24 bits of a word whose upper part is complete.
    case lower
  }

  /// Unpacks the next block into `block`, 4096 bytes. Returns its number.
  mutating func next(into block: UnsafeMutableRawBufferPointer) throws(Fault) -> UInt64 {
    let number = try value(8)
    var done = 0
    var base: UInt64 = 0
    while done < Limits.blockBytes {
      let code = try byte()
      switch code >> 4 {
      case 9: try unsafe literal(Int(code & 15), block, &done)
      case 10: try unsafe literal(Int(clamping: try value(Int(code & 15))), block, &done)
      case 11:
        let end = done + 8 * (Int(code & 15) << 8 | Int(try byte()))
        guard end <= Limits.blockBytes else { throw fault("more than a block") }
        for part in [Part.upper, .lower] {
          var at = done
          var base: UInt64 = 0
          while at < end { try unsafe words(try byte(), &base, part, block, &at, end) }
        }
        done = end
      default: try unsafe words(code, &base, .whole, block, &done, Limits.blockBytes)
      }
    }
    return number
  }

  private func fault(_ what: String) -> Fault { Fault(at: at, what: what) }

  private mutating func byte() throws(Fault) -> UInt8 {
    guard at < bytes.count else { throw fault("the end in the middle of a block") }
    at += 1
    return bytes[at - 1]
  }

  private mutating func value(_ width: Int) throws(Fault) -> UInt64 {
    guard width == 1 || width == 2 || width == 4 || width == 8 else {
      throw fault("a number of \(width) bytes")
    }
    guard width <= bytes.count - at else { throw fault("the end in the middle of a block") }
    defer { at += width }
    return unsafe bytes.withUnsafeBytes {
      switch width {
      case 1: unsafe UInt64($0[at])
      case 2:
        unsafe UInt64(UInt16(littleEndian: $0.loadUnaligned(fromByteOffset: at, as: UInt16.self)))
      case 4:
        unsafe UInt64(UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: at, as: UInt32.self)))
      default: unsafe UInt64(littleEndian: $0.loadUnaligned(fromByteOffset: at, as: UInt64.self))
      }
    }
  }

  private func requireSome(_ count: Int) throws(Fault) {
    guard count > 0 else { throw fault("a repetition of nothing") }
  }

  /// Copies literal bytes.
  private mutating func literal(
    _ count: Int, _ block: UnsafeMutableRawBufferPointer, _ done: inout Int
  ) throws(Fault) {
    try requireSome(count)
    guard count <= Limits.blockBytes - done else { throw fault("more than a block") }
    guard count <= bytes.count - at else { throw fault("the end in the middle of a block") }
    unsafe bytes.withUnsafeBytes { source in
      unsafe UnsafeMutableRawBufferPointer(rebasing: block[done..<(done + count)])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: source[at..<(at + count)]))
    }
    done += count
    at += count
  }

  /// Executes one instruction that builds words, from byte `place` of the block to at most `end`.
  private mutating func words(
    _ code: UInt8, _ base: inout UInt64, _ part: Part, _ block: UnsafeMutableRawBufferPointer,
    _ place: inout Int, _ end: Int
  ) throws(Fault) {
    let low = Int(code & 15)
    var count = 1
    var step: UInt8?
    switch code >> 4 {
    case 0, 1, 2, 3, 4: step = code
    case 5: count = low
    case 6: count = low << 8 | Int(try byte())
    case 7, 8:
      count = code >> 4 == 7 ? low : low << 8 | Int(try byte())
      let repeated = try byte()
      guard repeated >> 4 < 5 else { throw fault("a repetition of instruction \(repeated)") }
      step = repeated
    default: throw fault("an unknown instruction \(code)")
    }
    try requireSome(count)
    guard 8 * count <= end - place else { throw fault("more than a block") }
    var delta: UInt64 = 0
    if let step { delta = try self.delta(step, &base) }
    let stop = place + 8 * count
    while place < stop {
      base &+= delta
      let value: UInt64 =
        switch part {
        case .whole: base
        case .upper: base << 24
        case .lower:
          unsafe base
            | UInt64(littleEndian: block.loadUnaligned(fromByteOffset: place, as: UInt64.self))
        }
      unsafe block.storeBytes(of: value.littleEndian, toByteOffset: place, as: UInt64.self)
      place += 8
    }
  }

  /// What an instruction adds to the word before. One that sets a word sets `base`, and adds nothing.
  private mutating func delta(_ code: UInt8, _ base: inout UInt64) throws(Fault) -> UInt64 {
    switch code >> 4 {
    case 0:
      base = try value(Int(code & 15))
      return 0
    case 1: return UInt64(code & 15)
    case 2: return try value(Int(code & 15))
    case 3: return 0 &- UInt64(code & 15)
    default: return 0 &- (try value(Int(code & 15)))
    }
  }
}
