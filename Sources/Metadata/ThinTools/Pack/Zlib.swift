import Czlib

/// Compressed streams for whole chunks.
enum Zlib {
  /// `bytes` compressed.
  static func deflated(_ bytes: [UInt8], level: Int32) -> [UInt8] {
    var stream = z_stream()
    guard dmthin_deflate_begin(&stream, level) == Z_OK else { fatalError("out of memory") }
    defer { deflateEnd(&stream) }
    let bound = Int(deflateBound(&stream, UInt(bytes.count)))
    return [UInt8](unsafeUninitializedCapacity: bound) { out, count in
      bytes.withUnsafeBufferPointer { source in
        stream.next_in = UnsafeMutablePointer(mutating: source.baseAddress)
        stream.avail_in = UInt32(bytes.count)
        stream.next_out = out.baseAddress
        stream.avail_out = UInt32(bound)
        let status = deflate(&stream, Z_FINISH)
        precondition(status == Z_STREAM_END)
      }
      count = Int(stream.total_out)
    }
  }

  /// The content of the stream at the start of `bytes`, and its length; nil if it is damaged,
  /// truncated, or holds more than `countMax` bytes.
  static func inflated(_ bytes: ArraySlice<UInt8>, countMax: Int) -> (content: [UInt8], used: Int)?
  {
    var stream = z_stream()
    guard dmthin_inflate_begin(&stream) == Z_OK else { fatalError("out of memory") }
    defer { inflateEnd(&stream) }
    var content: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1 << 16)
    return bytes.withUnsafeBufferPointer { source in
      stream.next_in = UnsafeMutablePointer(mutating: source.baseAddress)
      stream.avail_in = UInt32(source.count)
      while true {
        let status = piece.withUnsafeMutableBufferPointer { out in
          stream.next_out = out.baseAddress
          stream.avail_out = UInt32(out.count)
          return inflate(&stream, Z_NO_FLUSH)
        }
        guard status == Z_OK || status == Z_STREAM_END else { return nil }
        content += piece[..<(piece.count - Int(stream.avail_out))]
        if content.count > countMax { return nil }
        if status == Z_STREAM_END { return (content, Int(stream.total_in)) }
        // Neither at the end nor out of room: it is truncated.
        if stream.avail_in == 0, stream.avail_out > 0 { return nil }
      }
    }
  }
}
