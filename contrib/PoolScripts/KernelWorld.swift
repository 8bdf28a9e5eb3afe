import CDMThin
import DeviceMapper
import Glibc
import KernelDeviceMapper

/// The running kernel's device-mapper, over loop devices on files in memory. For the rig.
final class KernelWorld: PoolWorld {
  let backend: any DeviceMapperBackend
  private let folder: String
  private var loops: [(device: Int32, file: Int32)] = []
  private var waiting: [BackgroundWrite] = []

  init(folder: String) {
    self.folder = folder
    let kernel = KernelDeviceMapper()
    kernel.settings.waitsForUdev = false
    kernel.settings.usesUdevRules = false
    backend = kernel
  }

  /// Records of the kernel's log since it was opened.
  private let kernelLog: Int32 = {
    let descriptor = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC)
    lseek(descriptor, 0, SEEK_END)
    return descriptor
  }()

  func takeRefusals() -> [String] {
    var lines: [String] = []
    var record = [UInt8](repeating: 0, count: 8192)
    while true {
      let count = read(kernelLog, &record, record.count)
      // Records that were overwritten before they were read.
      if count < 0 && errno == EPIPE { continue }
      guard count > 0 else { return lines }
      let text = String(decoding: record[0..<count], as: UTF8.self)
      // `PRIORITY,NUMBER,TIME,FLAGS;device-mapper: table: MAJOR:MINOR: TEXT`
      guard let line = text.split(separator: "\n").first,
        let start = line.firstIndex(of: ";")
      else { continue }
      let words = line[line.index(after: start)...].split(separator: " ")
      // Why a snapshot cannot be resumed is told by the target itself.
      if words.count > 3, words[1] == "snapshots:", words[2] == "Unable" {
        lines.append(words.dropFirst(2).joined(separator: " "))
      }
      // A warning is not a refusal.
      guard words.count > 3, words[0] == "device-mapper:", words[1] == "table:",
        words.last != "inconsistency", !words.contains("preresume")
      else { continue }
      lines.append(words.dropFirst(words[2].contains(":") ? 3 : 2).joined(separator: " "))
    }
  }

  var metadataPath: String { "\(folder)/meta" }
  var dataPath: String { "\(folder)/data" }
  let metadataName = "/dev/loop0"
  let dataName = "/dev/loop1"
  private var origins: [String] = []

  func originName(_ name: String) -> String {
    "/dev/loop\(2 + (origins.firstIndex(of: name) ?? 4))"
  }

  // MARK: - Devices

  private static let setFile: UInt = 0x4C00
  private static let clearFile: UInt = 0x4C01
  private static let setCapacity: UInt = 0x4C07

  private func attach(_ path: String) throws(PlayerError) {
    let name = "/dev/loop\(loops.count)"
    let file = open(path, O_RDWR | O_CLOEXEC)
    guard file >= 0 else { throw PlayerError.system(path) }
    let device = open(name, O_RDWR | O_CLOEXEC)
    guard device >= 0, ioctl(device, Self.setFile, file) == 0 else {
      throw PlayerError.system(name)
    }
    loops.append((device, file))
  }

  func makeDevices(metadataBytes: Int, dataBytes: Int) throws(PlayerError) {
    try makeFile(metadataPath, byteCount: metadataBytes, tag: nil)
    try makeFile(dataPath, byteCount: dataBytes, tag: 1 << 40)
    try attach(metadataPath)
    try attach(dataPath)
  }

  func makeOrigin(_ name: String, byteCount: Int) throws(PlayerError) {
    let path = "\(folder)/origin-\(name)"
    try makeFile(path, byteCount: byteCount, tag: 1 << 41 + UInt64(origins.count))
    origins.append(name)
    try attach(path)
  }

  func growMetadata(toBytes bytes: Int) throws(PlayerError) {
    guard ftruncate(loops[0].file, bytes) == 0, ioctl(loops[0].device, Self.setCapacity, 0) == 0
    else { throw PlayerError.system(metadataPath) }
  }

  func close() {
    Glibc.close(kernelLog)
    for (device, file) in loops {
      _ = ioctl(device, Self.clearFile, 0)
      Glibc.close(device)
      Glibc.close(file)
    }
    loops = []
    origins = []
  }

  // MARK: - I/O

  func perform(_ request: ScriptRequest) -> Int32 {
    var flags = O_RDWR | O_CLOEXEC | dmthin_o_direct
    if request.kind == .durableWrite { flags |= O_DSYNC }
    let fd = open("/dev/mapper/\(request.device)", flags)
    guard fd >= 0 else { return errno }
    defer { Glibc.close(fd) }
    var done = 0
    switch request.kind {
    case .flush: return fsync(fd) == 0 ? 0 : errno
    case .discard:
      var range = (UInt64(request.offset), UInt64(request.byteCount))
      return ioctl(fd, 0x1277, &range) == 0 ? 0 : errno  // BLKDISCARD
    case .read:
      done = pread(fd, request.buffer.baseAddress, request.byteCount, request.offset)
    case .write, .durableWrite:
      done = pwrite(fd, request.buffer.baseAddress, request.byteCount, request.offset)
    }
    // A request that fails in part is followed by others, which show the failure.
    return done == request.byteCount ? 0 : done < 0 ? errno : EIO
  }

  func start(_ request: ScriptRequest) {
    waiting.append(BackgroundWrite { self.perform(request) })
  }

  func settle() {
    var (last, same) = ("", 0)
    for _ in 0..<50 where same < 4 && waiting.contains(where: { $0.result == nil }) {
      usleep(20_000)
      let status = (try? backend.status(.name("pool"), .noFlush))?.lines.first?.parameters ?? ""
      same = status == last ? same + 1 : 0
      last = status
    }
  }

  func waitShortly() { usleep(10_000) }

  func pause() {
    // The kernel's worker checks every second, and waiting requests continue only when it does.
    usleep(2_300_000)
    settle()
  }

  func finish() -> [Int32?] {
    for _ in 0..<300 where waiting.contains(where: { $0.result == nil }) { usleep(10_000) }
    defer { waiting.removeAll { $0.result != nil } }
    return waiting.map(\.result)
  }
}

/// A request for which a separate thread waits.
private final class BackgroundWrite {
  private final class State: @unchecked Sendable {
    let body: () -> Int32
    private var lock = pthread_mutex_t()
    private var value: Int32?
    init(_ body: @escaping () -> Int32) {
      self.body = body
      pthread_mutex_init(&lock, nil)
    }
    var result: Int32? {
      get {
        pthread_mutex_lock(&lock)
        defer { pthread_mutex_unlock(&lock) }
        return value
      }
      set {
        pthread_mutex_lock(&lock)
        value = newValue
        pthread_mutex_unlock(&lock)
      }
    }
  }
  private let state: State
  var result: Int32? { state.result }

  init(_ body: @escaping () -> Int32) {
    state = State(body)
    var thread = pthread_t()
    let failed = pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        let state = Unmanaged<State>.fromOpaque(argument).takeRetainedValue()
        state.result = state.body()
        return nil
      }, Unmanaged.passRetained(state).toOpaque())
    if failed == 0 { pthread_detach(thread) } else { state.result = failed }
  }
}
