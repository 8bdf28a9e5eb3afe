import ThinFormat

/// Packs sound metadata blocks in the format of the original tools: instructions build 64-bit words
/// from the words before them. Keys and values of nodes are packed in this way, everything else is
/// stored literally.
///
/// Memory: what the blocks of one chunk take; a block needs twice its size at most where nothing repeats.
///
/// Invariant: `end` lies behind the bytes of `blockCount` blocks, each of which took `blockBytesMax` at most.
@safe struct BlockPacker: ~Copyable {
  /// More than a block can take: its number, literal bytes with their lengths, and for each of the three
  /// words that an entry is at most, an instruction and eight bytes. A number is always stored as eight
  /// bytes, of which what follows overwrites those that do not count.
  private static let blockBytesMax = 3 * Limits.blockBytes

  private let memory: UnsafeMutablePointer<UInt8>
  private var end: UnsafeMutablePointer<UInt8>
  private var blockCount = 0

  /// Without blocks. Memory that is not used is not touched.
  init() {
    unsafe memory = .allocate(capacity: PackFormat.chunkBlocks * Self.blockBytesMax)
    unsafe end = memory
  }

  deinit { unsafe memory.deallocate() }

  var isEmpty: Bool { blockCount == 0 }
  /// Whether it has as many blocks as a chunk has.
  var isFull: Bool { blockCount == PackFormat.chunkBlocks }

  /// The packed blocks, until the next change.
  var bytes: UnsafeBufferPointer<UInt8> {
    unsafe UnsafeBufferPointer(start: memory, count: end - memory)
  }

  /// Adds a block.
  /// - Precondition: it is not full.
  mutating func add(_ block: UInt64, _ content: RawSpan, _ kind: BlockKind) {
    precondition(!isFull)
    blockCount += 1
    append(block, width: 8)
    guard kind == .btreeNode, let (valueSize, isLeaf) = Self.layout(block, content) else {
      return literal(content, 0..<Limits.blockBytes)
    }
    let count = BtreeNodeRecord.entriesMax(valueSize: valueSize)
    let keysEnd = BtreeNodeRecord.keysOffset + 8 * count
    literal(content, 0..<BtreeNodeRecord.keysOffset)
    words(content, from: BtreeNodeRecord.keysOffset, count: count) { $0 }
    guard valueSize == 8 else { return literal(content, keysEnd..<Limits.blockBytes) }
    if isLeaf {
      // The upper parts are data blocks, the lower ones times.
      append(0xB0, count)
      words(content, from: keysEnd, count: count) { $0 >> 24 }
      words(content, from: keysEnd, count: count) { $0 & 0xFF_FFFF }
    } else {
      words(content, from: keysEnd, count: count) { $0 }
    }
    literal(content, (keysEnd + 8 * count)..<Limits.blockBytes)
  }

  /// Bytes of a node's values; nil for a block that is not part of a tree.
  private static func layout(_ block: UInt64, _ content: RawSpan) -> (valueSize: Int, isLeaf: Bool)?
  {
    for size in [8, DeviceDetails.byteCount, IndexEntry.byteCount, 4] {
      if let node = try? BtreeNodeView(validating: content, number: block, leafValueSize: size) {
        return (node.isLeaf ? size : 8, node.isLeaf)
      }
    }
    return nil
  }

  mutating func removeAll() { unsafe (end, blockCount) = (memory, 0) }

  private mutating func append(_ byte: UInt8) {
    unsafe end.pointee = byte
    unsafe end += 1
  }

  private mutating func append(_ value: UInt64, width: Int) {
    unsafe UnsafeMutableRawPointer(end).storeBytes(of: value.littleEndian, as: UInt64.self)
    unsafe end += width
  }

  /// An instruction with a count of up to 12 bits.
  private mutating func append(_ code: UInt8, _ count: Int) {
    append(code | UInt8(count >> 8))
    append(UInt8(count & 255))
  }

  /// Stores bytes literally.
  private mutating func literal(_ content: RawSpan, _ range: Range<Int>) {
    guard !range.isEmpty else { return }
    if range.count < 16 {
      append(0x90 | UInt8(range.count))
    } else if range.count < 256 {
      append(0xA1)
      append(UInt64(range.count), width: 1)
    } else {
      append(0xA2)
      append(UInt64(range.count), width: 2)
    }
    unsafe content.withUnsafeBytes {
      unsafe UnsafeMutableRawBufferPointer(start: end, count: range.count)
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range]))
    }
    unsafe end += range.count
  }

  private static func width(_ value: UInt64) -> Int {
    value < 1 << 8 ? 1 : value < 1 << 16 ? 2 : value < 1 << 32 ? 4 : 8
  }

  /// `count` words from byte `from` on, after `part`.
  private mutating func words(
    _ content: RawSpan, from: Int, count: Int, _ part: (UInt64) -> UInt64
  ) {
    func word(_ i: Int) -> UInt64 {
      unsafe part(
        UInt64(
          littleEndian: content.unsafeLoadUnaligned(
            fromUncheckedByteOffset: from &+ 8 &* i, as: UInt64.self)))
    }
    guard count > 0 else { return }
    var base = word(0)
    let width = Self.width(base)
    append(UInt8(width))
    append(base, width: width)
    var i = 1
    while i < count {
      let value = word(i)
      let delta = value &- base
      var stop = i + 1
      var last = value
      while stop < count, stop - i < 4095 {
        let next = word(stop)
        guard next &- last == delta else { break }
        last = next
        stop += 1
      }
      let length = stop - i
      if delta == 0 {
        if length < 16 {
          append(0x50 | UInt8(length))
        } else {
          append(0x60, length)
        }
        i = stop
        continue
      }
      let isNegative = value < base
      let step = isNegative ? 0 &- delta : delta
      if step < 16 {
        if length > 2 {
          if length < 16 {
            append(0x70 | UInt8(length))
          } else {
            append(0x80, length)
          }
          append((isNegative ? 0x30 : 0x10) | UInt8(step))
          base = last
          i = stop
          continue
        }
        append((isNegative ? 0x30 : 0x10) | UInt8(step))
      } else {
        let width = Self.width(step)
        append((isNegative ? 0x40 : 0x20) | UInt8(width))
        append(step, width: width)
      }
      base = value
      i += 1
    }
  }
}
