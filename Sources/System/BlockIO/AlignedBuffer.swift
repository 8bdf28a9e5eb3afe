import Glibc

/// Memory aligned for O_DIRECT, initially zero. The object owns it; untouched pages cost nothing.
@safe public final class AlignedBuffer {
  /// The memory.
  public let bytes: UnsafeMutableRawBufferPointer

  /// Maps `count` bytes, a multiple of 4096.
  public init(count: Int) {
    guard let memory = unsafe Self.map(count) else { fatalError("out of memory: \(count) bytes") }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
  }

  /// Maps room for `count` bytes: whole pages, and one at least.
  public convenience init(holding count: Int) { self.init(count: Self.pages(count)) }

  /// The same for a number of bytes that follows from what is on a disk; nil where there is not so much
  /// memory.
  public init?(ifAvailable count: Int) {
    let count = Self.pages(count)
    guard let memory = unsafe Self.map(count) else { return nil }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
  }

  private static func pages(_ count: Int) -> Int { max(4096, (count + 4095) / 4096 * 4096) }

  private static func map(_ count: Int) -> UnsafeMutableRawPointer? {
    let memory = unsafe mmap(nil, count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return unsafe memory == MAP_FAILED ? nil : memory
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
