import ThinFormat

/// Packs sound metadata blocks in the format of the original tools: instructions build 64-bit words
/// from the words before them. Keys and values of nodes are packed in this way, everything else is
/// stored literally.
struct BlockPacker {
  private(set) var bytes: [UInt8] = []

  /// Adds a block.
  mutating func add(_ block: UInt64, _ content: RawSpan, _ kind: BlockKind) {
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
      bytes.append(0xB0 | UInt8(count >> 8))
      bytes.append(UInt8(count & 255))
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

  mutating func removeAll() { bytes.removeAll(keepingCapacity: true) }

  private mutating func append(_ value: UInt64, width: Int) {
    var value = value
    for _ in 0..<width {
      bytes.append(UInt8(truncatingIfNeeded: value))
      value >>= 8
    }
  }

  /// Stores bytes literally.
  private mutating func literal(_ content: RawSpan, _ range: Range<Int>) {
    guard !range.isEmpty else { return }
    if range.count < 16 {
      bytes.append(0x90 | UInt8(range.count))
    } else if range.count < 256 {
      bytes.append(0xA1)
      append(UInt64(range.count), width: 1)
    } else {
      bytes.append(0xA2)
      append(UInt64(range.count), width: 2)
    }
    content.withUnsafeBytes { bytes += $0[range] }
  }

  private static func width(_ value: UInt64) -> Int {
    value < 1 << 8 ? 1 : value < 1 << 16 ? 2 : value < 1 << 32 ? 4 : 8
  }

  /// `count` words from byte `from` on, after `part`.
  private mutating func words(
    _ content: RawSpan, from: Int, count: Int, _ part: (UInt64) -> UInt64
  ) {
    func word(_ i: Int) -> UInt64 {
      part(
        UInt64(
          littleEndian: content.unsafeLoadUnaligned(
            fromUncheckedByteOffset: from &+ 8 &* i, as: UInt64.self)))
    }
    guard count > 0 else { return }
    var base = word(0)
    let width = Self.width(base)
    bytes.append(UInt8(width))
    append(base, width: width)
    var i = 1
    while i < count {
      let value = word(i)
      let delta = value &- base
      var end = i + 1
      var last = value
      while end < count, end - i < 4095 {
        let next = word(end)
        guard next &- last == delta else { break }
        last = next
        end += 1
      }
      let length = end - i
      if delta == 0 {
        if length < 16 {
          bytes.append(0x50 | UInt8(length))
        } else {
          bytes.append(0x60 | UInt8(length >> 8))
          bytes.append(UInt8(length & 255))
        }
        i = end
        continue
      }
      let isNegative = value < base
      let step = isNegative ? 0 &- delta : delta
      if step < 16 {
        if length > 2 {
          if length < 16 {
            bytes.append(0x70 | UInt8(length))
          } else {
            bytes.append(0x80 | UInt8(length >> 8))
            bytes.append(UInt8(length & 255))
          }
          bytes.append((isNegative ? 0x30 : 0x10) | UInt8(step))
          base = last
          i = end
          continue
        }
        bytes.append((isNegative ? 0x30 : 0x10) | UInt8(step))
      } else {
        let width = Self.width(step)
        bytes.append((isNegative ? 0x40 : 0x20) | UInt8(width))
        append(step, width: width)
      }
      base = value
      i += 1
    }
  }
}
