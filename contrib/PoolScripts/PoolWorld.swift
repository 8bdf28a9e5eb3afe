import DeviceMapper
import Glibc

/// Plays scripts: a device-mapper, the files below it, and I/O to its devices. The same calls must
/// have the same results in every world.
protocol PoolWorld: AnyObject {
  var backend: any DeviceMapperBackend { get }
  /// Files of the metadata and the data device.
  var metadataPath: String { get }
  var dataPath: String { get }
  /// The names of the devices in tables.
  var metadataName: String { get }
  var dataName: String { get }

  /// Creates both devices: metadata of zeros, and data with a pattern that is older than the pool.
  func makeDevices(metadataBytes: Int, dataBytes: Int) throws(PlayerError)
  /// Creates a device that can be an external origin.
  func makeOrigin(_ name: String, byteCount: Int) throws(PlayerError)
  /// The name of an external origin in tables.
  func originName(_ name: String) -> String
  /// Enlarges the metadata device.
  func growMetadata(toBytes bytes: Int) throws(PlayerError)

  /// Performs a request and waits for it.
  /// - Returns: 0 or an error number.
  func perform(_ request: ScriptRequest) -> Int32
  /// Starts a write that may have to wait for space.
  func start(_ request: ScriptRequest)
  /// Waits, for a few seconds at most, for the started writes.
  /// - Returns: results in the order of `start`; nil for a write that is still pending.
  func finish() -> [Int32?]
  /// Lets the started writes go as far as they can.
  func settle()
  /// Waits until the pool has committed by itself, and the consequences have happened.
  func pause()
  /// Gives the started writes a hundredth of a second.
  func waitShortly()
  /// The log's new messages about tables.
  func takeRefusals() -> [String]
  /// Removes everything, devices included.
  func close()
}

/// A request to a device by its device-mapper name.
struct ScriptRequest {
  enum Kind {
    case read, write, durableWrite, flush, discard
  }
  var kind: Kind
  var device: String
  var offset = 0
  var buffer: UnsafeMutableRawBufferPointer
  var byteCount = 0
}

/// Why a script cannot be continued.
enum PlayerError: Error, CustomStringConvertible {
  /// A commit may have come by itself, so that the results depend on the time.
  case late
  /// The script or the machine is at fault.
  case fault(String)

  var description: String {
    switch self {
    case .late: "late"
    case .fault(let text): text
    }
  }

  /// The failure of `what`, with the text for `errno`.
  static func system(_ what: String) -> PlayerError {
    .fault("\(what): \(String(cString: strerror(errno)))")
  }
}

/// Creates a file of `byteCount` bytes, filled sector by sector with the pattern of `tag`, or
/// empty.
func makeFile(_ path: String, byteCount: Int, tag: UInt64?) throws(PlayerError) {
  unlink(path)
  let fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
  guard fd >= 0, ftruncate(fd, byteCount) == 0 else { throw PlayerError.system(path) }
  defer { close(fd) }
  guard let tag else { return }
  let chunk = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
  defer { chunk.deallocate() }
  var at = 0
  while at < byteCount {
    let count = min(chunk.count, byteCount - at)
    fillPattern(
      UnsafeMutableRawBufferPointer(rebasing: chunk[0..<count]), tag: tag, sector: at / 512)
    guard pwrite(fd, chunk.baseAddress, count, at) == count else { throw PlayerError.system(path) }
    at += count
  }
}

/// Copies the bytes of a file into another one, which exists.
func copyFile(_ from: String, to path: String) throws(PlayerError) {
  let source = open(from, O_RDONLY | O_CLOEXEC)
  guard source >= 0 else { throw PlayerError.system(from) }
  defer { close(source) }
  let target = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
  guard target >= 0 else { throw PlayerError.system(path) }
  defer { close(target) }
  let chunk = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
  defer { chunk.deallocate() }
  while true {
    let count = read(source, chunk.baseAddress, chunk.count)
    guard count > 0 else { return }
    guard write(target, chunk.baseAddress, count) == count else { throw PlayerError.system(path) }
  }
}

/// Bytes that identify their writer and their place; `sector` is the first one's.
func fillPattern(_ buffer: UnsafeMutableRawBufferPointer, tag: UInt64, sector: Int) {
  let words = buffer.bindMemory(to: UInt64.self)
  let first = UInt64(sector) &* 64
  for i in 0..<words.count {
    words[i] = (tag &+ 1) &* 0x9E37_79B9_7F4A_7C15 ^ (first &+ UInt64(i)) &* 0xD6E8_FEB8_6659_FD93
  }
}

/// A digest that is cheap to compute in the rig.
struct ScriptDigest {
  private(set) var value: UInt64 = 0x1234_5678_9ABC_DEF1

  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    let words = bytes.bindMemory(to: UInt64.self)
    var state = value
    for word in words {
      state = (state ^ word) &* 0xFF51_AFD7_ED55_8CCD
      state ^= state >> 29
    }
    value = state
  }

  mutating func add(_ word: UInt64) {
    value = (value ^ word) &* 0xFF51_AFD7_ED55_8CCD
    value ^= value >> 29
  }

  var text: String { String(value, radix: 16) }
}
