import BlockIO
import CDMThin
import Glibc
import ThinFormat

/// Does only what the tools cannot avoid: the reference for benchmarks.
///
///     bench-limit read IMAGE           reads the blocks in use and computes their checksums
///     bench-limit write IMAGE XML OUT  reads XML, writes as many blocks as IMAGE uses, flushes
///
/// Blocks in use are those with a count above zero in the metadata space map. The image must be
/// sound; nothing is verified.
@main
enum LimitMain {
  static func main() throws {
    dmthin_begin_program()
    let arguments = Array(CommandLine.arguments.dropFirst())
    switch (arguments.first, arguments.count) {
    case ("read", 2):
      try read(arguments[1])
    case ("write", 4):
      try write(like: arguments[1], xml: arguments[2], to: arguments[3])
    default:
      print("usage: bench-limit read IMAGE\n       bench-limit write IMAGE XML OUT")
      exit(2)
    }
  }

  private static func read(_ path: String) throws {
    let device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    let used = try usedBlocks(device)
    var position = 0
    var sum: UInt32 = 0
    var failure: BlockIOError?
    BlockStream(device).read(
      next: {
        guard position < used.count else { return nil }
        position += 1
        return used[position - 1]
      },
      body: { _, bytes, error in
        failure = failure ?? error
        sum ^= BlockHeader.rawChecksum(bytes)
      })
    if let failure { throw failure }
    print("\(used.count) blocks, checksums together \(sum)")
  }

  private static func write(like image: String, xml: String, to path: String) throws {
    let used = try usedBlocks(FileDevice(path: image, access: .readOnly, exclusive: false)).count
    let buffer = AlignedBuffer(count: 1 << 20)
    let perWrite = buffer.bytes.count / Limits.blockBytes
    let bytes = try readThrough(xml, buffer)
    let output = try FileDevice(path: path, access: .readWrite, exclusive: true)
    var block = 0
    while block < used {
      let count = min(perWrite, used - block)
      for i in 0..<count {
        let start = i * Limits.blockBytes
        let place = UnsafeMutableRawBufferPointer(
          rebasing: buffer.bytes[start..<(start + Limits.blockBytes)])
        BlockHeader.seal(place, number: UInt64(block + i), kind: .btreeNode)
      }
      try output.write(
        UnsafeRawBufferPointer(rebasing: buffer.bytes[..<(count * Limits.blockBytes)]),
        at: UInt64(block * Limits.blockBytes))
      block += count
    }
    try output.flush()
    print("\(bytes) bytes read, \(used) blocks written")
  }

  /// Reads a file to its end, as restore reads its dump: through the page cache.
  private static func readThrough(_ path: String, _ buffer: AlignedBuffer) throws -> Int {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw BlockIOError(.open, path: path, code: errno) }
    defer { close(file) }
    var total = 0
    while true {
      let n = Glibc.read(file, buffer.bytes.baseAddress, buffer.bytes.count)
      guard n >= 0 else { throw BlockIOError(.read, path: path, code: errno) }
      if n == 0 { return total }
      total += n
    }
  }

  private static func usedBlocks(_ device: FileDevice) throws -> [UInt64] {
    let block = AlignedBuffer(count: Limits.blockBytes)
    try device.read(into: block.bytes, at: 0)
    let map = Superblock(decoding: block.span).metadataSpaceMap
    try device.read(into: block.bytes, at: map.bitmapRoot * UInt64(Limits.blockBytes))
    let bitmaps = (0..<Int(map.bitmapCount)).map { i in
      IndexEntry(decoding: block.span, at: IndexBlock.offset(ofEntry: i)).bitmapBlock
    }
    var used: [UInt64] = []
    for (i, bitmap) in bitmaps.enumerated() {
      try device.read(into: block.bytes, at: bitmap * UInt64(Limits.blockBytes))
      for entry in 0..<Limits.entriesPerBitmap where Bitmap.count(block.span, entry) != 0 {
        used.append(UInt64(i * Limits.entriesPerBitmap + entry))
      }
    }
    return used
  }
}
