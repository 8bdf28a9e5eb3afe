import DataPath
import Testing

@Suite("Unused requests")
struct RequestPoolTests {
  @Test("The memory of many requests is released when none is in use any more")
  func trimmed() {
    let (pool, owner) = (RequestPool(), RequestOwner())
    func take(_ count: Int) -> [RequestPointer] {
      (0..<count).map { _ in pool.take(.flush, offset: 0, byteCount: 0, owner: owner) }
    }
    var taken = take(100_000)
    let most = pool.bytes
    #expect(most > 5 << 20)
    let last = taken.removeLast()
    for request in taken { pool.give(request) }
    pool.trim()
    #expect(pool.bytes == most && last.pointee.operation == .flush)
    pool.give(last)
    pool.trim()
    #expect(pool.bytes == 0)
    for request in take(300) { pool.give(request) }
    let few = pool.bytes
    pool.trim()
    #expect(pool.bytes == few && pool.inUse == 0)
  }
}
