import BlockIO
import DeviceMapper
import Synchronization
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@testable import PoolManager

/// A pool `p` on devices `meta` and `data`, with thin devices 1 to 4, of which `t1` and `t2` are
/// active; unused devices `meta2` and `data2`; and a run folder.
final class Scene {
  let backend = FakeDeviceMapper()
  let folder: ScratchFolder
  let run: RunFolder
  let sizes = Sizes()
  private(set) var notes: [String] = []
  private(set) var warnings: [String] = []

  /// Sectors of devices, by number; tests change them.
  final class Sizes: Sendable {
    private let values = Mutex<[String: UInt64]>([
      "7:0": 16384, "7:1": 204800, "7:2": 16384, "7:3": 204800,
    ])
    subscript(number: String) -> UInt64? {
      get { values.withLock { $0[number] } }
      set { values.withLock { $0[number] = newValue } }
    }
  }

  init() throws {
    folder = try ScratchFolder()
    run = RunFolder(folder.path)
    for (name, size) in [
      ("meta", 8 << 20), ("data", 100 << 20), ("meta2", 8 << 20), ("data2", 100 << 20),
    ] {
      _ = try folder.zeros(name, size: UInt64(size))
    }
    try backend.create(
      DeviceCreation(
        name: "p", table: [line("thin-pool", "7:0 7:1 128 10 0 ", sectors: 204800)]))
    for id in 1...4 { _ = try backend.message(.name("p"), sector: 0, "create_thin \(id)") }
    for id in 1...2 {
      try backend.create(
        DeviceCreation(name: "t\(id)", table: [line("thin", "254:0 \(id)", sectors: 8192)]))
    }
    backend.reset()
  }

  func line(_ type: String, _ parameters: String, sectors: UInt64) -> TableLine {
    TableLine(start: 0, length: sectors, type: type, parameters: parameters)
  }

  /// A manager of a process that has just started.
  func manager() -> PoolManager {
    let manager = PoolManager(backend, runFolder: run)
    let (folder, sizes) = (folder.path, sizes)
    manager.devices = BlockDevices(
      number: { path throws(ToolError) in
        let names = ["meta", "data", "meta2", "data2"]
        guard let minor = names.firstIndex(where: { path == "\(folder)/\($0)" }) else {
          throw ToolError(.unsuitable(.input), "no device \(path)")
        }
        return DeviceNumber(major: 7, minor: UInt32(minor))
      },
      sectors: { sizes["\($0)"] },
      path: { number, _ in "\(folder)/\(["meta", "data", "meta2", "data2"][Int(number.minor)])" })
    manager.note = { [unowned self] in notes.append($0) }
    manager.warn = { [unowned self] in warnings.append($0) }
    manager.lockSeconds = 0
    return manager
  }

  func forgetWords() { (notes, warnings) = ([], []) }

  /// The files of the run folder of a kind, by key.
  func files(_ kind: RunFolder.Kind) -> [String: String] {
    ((try? run.pools(with: kind)) ?? []).reduce(into: [:]) { $0[$1] = try? run.load($1, kind) }
  }

  var suspended: [String] {
    backend.state.devices.filter { $0.value.isSuspended }.map(\.key).sorted()
  }

  var pool: FakeDeviceMapper.Pool { backend.state.pools["7:0"] ?? FakeDeviceMapper.Pool() }

  func activation(_ name: String = "q") -> PoolActivation {
    PoolActivation(
      name: name, metadata: folder.file("meta2"), data: folder.file("data2"))
  }

  /// Makes the metadata of a pool on `meta2`.
  func format(needsCheck: Bool = false, dataBlocks: UInt64 = 1600) throws {
    let device = try FileDevice(
      path: folder.file("meta2"), access: .readWrite, exclusive: true)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.resizeData(to: dataBlocks)
    if needsCheck { try pool.setNeedsCheck() }
    try pool.commit()
  }

  func firstBlockIsZero(_ name: String) throws -> Bool {
    try contents(of: folder.file(name)).prefix(4096).allSatisfy { $0 == 0 }
  }
}

/// Runs a verb and returns its error.
func refusal(_ body: () throws -> Void) -> ToolError? {
  do {
    try body()
    return nil
  } catch {
    return error as? ToolError ?? ToolError(.unexpected, "another error: \(error)")
  }
}
