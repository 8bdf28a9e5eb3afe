import Cdeflate

/// Compresses whole chunks as zlib streams.
@safe final class Compressor {
  /// Files are a little smaller than those of the original tool.
  private static let level: Int32 = 6
  private let compressor: OpaquePointer

  init() {
    guard let compressor = unsafe libdeflate_alloc_compressor(Self.level) else {
      fatalError("out of memory")
    }
    unsafe self.compressor = compressor
  }

  deinit { unsafe libdeflate_free_compressor(compressor) }

  /// `bytes` compressed.
  func compressed(_ bytes: UnsafeBufferPointer<UInt8>) -> [UInt8] {
    let bound = unsafe libdeflate_zlib_compress_bound(compressor, bytes.count)
    return unsafe [UInt8](unsafeUninitializedCapacity: bound) { out, count in
      count = unsafe libdeflate_zlib_compress(
        compressor, bytes.baseAddress, bytes.count, out.baseAddress, bound)
      precondition(count > 0, "the bound is enough for every stream")
    }
  }
}

/// Reads zlib streams.
@safe final class Decompressor {
  private let decompressor: OpaquePointer

  init() {
    guard let decompressor = unsafe libdeflate_alloc_decompressor() else {
      fatalError("out of memory")
    }
    unsafe self.decompressor = decompressor
  }

  deinit { unsafe libdeflate_free_decompressor(decompressor) }

  /// The content of the stream at the start of `bytes`, and the stream's length; nil if it is damaged,
  /// truncated, or holds more than `countMax` bytes.
  func content(_ bytes: ArraySlice<UInt8>, countMax: Int) -> (content: [UInt8], used: Int)? {
    unsafe bytes.withUnsafeBufferPointer { source in
      var used = 0
      var result = LIBDEFLATE_BAD_DATA
      // Room that is not used costs no memory: the system gives it page by page.
      let content = unsafe [UInt8](unsafeUninitializedCapacity: countMax) { out, count in
        result = unsafe libdeflate_zlib_decompress_ex(
          decompressor, source.baseAddress, source.count, out.baseAddress, countMax, &used, &count)
        if result != LIBDEFLATE_SUCCESS { count = 0 }
      }
      return result == LIBDEFLATE_SUCCESS ? (content, used) : nil
    }
  }
}
