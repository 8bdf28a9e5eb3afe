/// Memory aligned for O_DIRECT. Owned by the object, zeroed at the start.
public final class AlignedBuffer {
  /// The memory.
  public let bytes: UnsafeMutableRawBufferPointer

  /// Allocates `count` bytes aligned to 4096.
  public init(count: Int) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096)
    bytes = UnsafeMutableRawBufferPointer(start: memory, count: count)
    bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }

  deinit { bytes.deallocate() }

  /// The memory as a span that lives as long as the object is borrowed.
  public var span: RawSpan {
    @_lifetime(borrow self) get {
      let span = RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes))
      return unsafe _overrideLifetime(span, borrowing: self)
    }
  }

  /// Sets every byte to zero.
  public func zero() { bytes.initializeMemory(as: UInt8.self, repeating: 0) }
}
