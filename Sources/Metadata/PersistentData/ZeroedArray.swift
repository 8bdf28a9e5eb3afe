import Glibc

/// A fixed array that starts with zeros. The system provides memory page by page as it is touched,
/// so a table over all blocks of a large device costs only what is used of it.
@safe public final class ZeroedArray<Element: FixedWidthInteger & BitwiseCopyable> {
  @usableFromInline let elements: UnsafeMutablePointer<Element>
  /// The number of elements.
  public let count: Int

  /// `count` zeros.
  public init(count: Int) {
    guard let memory = unsafe calloc(max(1, count), MemoryLayout<Element>.stride) else {
      fatalError("out of memory: \(count) elements")
    }
    unsafe elements = memory.bindMemory(to: Element.self, capacity: max(1, count))
    self.count = count
  }

  deinit { unsafe free(elements) }

  /// One element.
  /// - Precondition: `i` is below `count`.
  @inlinable public subscript(i: Int) -> Element {
    get {
      precondition(i >= 0 && i < count)
      return unsafe elements[i]
    }
    set {
      precondition(i >= 0 && i < count)
      unsafe elements[i] = newValue
    }
  }
}
