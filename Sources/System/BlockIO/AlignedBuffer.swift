import Glibc

/// Memory aligned for O_DIRECT, initially zero. The object owns it; untouched pages cost nothing.
@safe public final class AlignedBuffer {
  /// The memory.
  public let bytes: UnsafeMutableRawBufferPointer

  /// Maps `count` bytes, a multiple of 4096.
  public init(count: Int) {
    let memory = unsafe mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = unsafe memory, unsafe memory != MAP_FAILED else {
      fatalError("out of memory: \(count) bytes")
    }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
  }

  deinit { unsafe munmap(bytes.baseAddress, bytes.count) }

  /// The memory as a span that lives while the object is borrowed.
  public var span: RawSpan {
    @_lifetime(borrow self) get {
      let span = unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes))
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// Sets every byte to zero.
  public func zero() { unsafe bytes.initializeMemory(as: UInt8.self, repeating: 0) }
}
