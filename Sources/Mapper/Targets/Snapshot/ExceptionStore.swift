import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import ThinFormat

/// Where a snapshot keeps the chunks that differ from its origin: it gives out chunks of the COW device,
/// and keeps the records of which chunk is where. Subclassed by kind.
class ExceptionStore: RequestOwner {
  let cow: OpenDevice
  /// Chunk and area sizes; chunks of 0 sectors until a store is handed over.
  let layout: ExceptionStoreLayout
  /// The letter in tables.
  let kind: SnapshotTarget.Store

  init(_ cow: OpenDevice, _ layout: ExceptionStoreLayout, _ kind: SnapshotTarget.Store) {
    self.cow = cow
    self.layout = layout
    self.kind = kind
    super.init()
  }

  var chunkBytes: UInt64 { layout.chunkBytes }

  /// Gives out neighbouring chunks, `most` at most; nil if there is no space. Those after each other come
  /// from ascending places.
  func allocate(_ most: UInt64) -> Range<UInt64>? { nil }
  /// A run of chunks that were given out will get its contents.
  func begin(_ run: PendingRun) {}
  /// A run has its contents, or cannot have them. The store calls its `committed` when that is on record.
  func copied(_ run: PendingRun) {}
  /// Marks the store invalid, and calls `done` when that is on record.
  func invalidate(_ done: @escaping () -> Void) { done() }
  /// Whether nothing is under way.
  var isIdle: Bool { true }

  /// Sectors in use.
  var allocatedSectors: UInt64 { 0 }
  /// How many of these hold records.
  var metadataSectors: UInt64 { 0 }

  /// The last chunks on record that are neighbours in both places, in ascending order, as many as one area
  /// has. Nil if there is none. The caller may have to wait.
  func lastRun() throws(BlockIOError) -> ExceptionRun? { nil }
  /// Removes the last `count` records. The caller may have to wait.
  func forgetLast(_ count: UInt64) throws(BlockIOError) {}
}

/// Neighbouring chunks of an origin that are neighbours on the COW device too.
struct ExceptionRun: Equatable {
  var oldFirst: UInt64
  var newFirst: UInt64
  var count: UInt64
}

/// A store without records: its content is gone when it is closed.
final class TransientStore: ExceptionStore {
  private var next: UInt64 = 0
  private var pending = 0

  init(_ cow: OpenDevice, _ layout: ExceptionStoreLayout) {
    super.init(cow, layout, .transient)
  }

  override func allocate(_ most: UInt64) -> Range<UInt64>? {
    let total = cow.direct.byteCount / chunkBytes
    guard next < total else { return nil }
    let range = next..<next + min(most, total - next)
    next = range.upperBound
    return range
  }

  override func begin(_ run: PendingRun) { pending += 1 }

  override func copied(_ run: PendingRun) {
    pending -= 1
    run.committed(run.failure == 0)
  }

  override var isIdle: Bool { pending == 0 }
  override var allocatedSectors: UInt64 { next &* UInt64(layout.chunkSectors) }
}

/// The place of a store that another table will hand over.
final class AwaitedStore: ExceptionStore {
  init(_ cow: OpenDevice, _ kind: SnapshotTarget.Store) {
    super.init(cow, ExceptionStoreLayout(chunkSectors: 0), kind)
  }
}
