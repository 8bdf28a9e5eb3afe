import BlockIO
import DataPath
import DeviceMapper
import EventLoop
import Glibc
import PoolManager
import Targets
import TestSupport
import Testing
import ThinMetadata

@testable import PoolServer

@Suite("Checks of metadata before it is served for writing")
struct MetadataJudgeTests {
  /// Files with 2 MiB of metadata: parts of two files, the last of them in stripes.
  private func scattered(_ folder: ScratchFolder) throws -> (first: String, second: String) {
    let whole = try folder.zeros("whole", size: 2 << 20)
    let pool = try PoolMetadata.format(
      FileDevice(path: whole, access: .readWrite, exclusive: false), dataBlockSectors: 128)
    try pool.resizeData(to: 16)
    try pool.commit()
    let bytes = try contents(of: whole)
    var (a, b) = ([UInt8](repeating: 0, count: 2 << 20), [UInt8](repeating: 0, count: 2 << 20))
    a.replaceSubrange(4096..<4096 + (512 << 10), with: bytes[..<(512 << 10)])
    b.replaceSubrange(0..<512 << 10, with: bytes[(512 << 10)..<1 << 20])
    for chunk in 0..<256 {
      let from = bytes[((1 << 20) + chunk * 4096)...].prefix(4096)
      let at = (1 << 20) + chunk / 2 * 4096
      if chunk % 2 == 0 {
        a.replaceSubrange(at..<at + 4096, with: from)
      } else {
        b.replaceSubrange(at..<at + 4096, with: from)
      }
    }
    return (try folder.file("a", bytes: a), try folder.file("b", bytes: b))
  }

  @Test("Metadata in pieces of several files is checked on another thread, with the same result")
  func pieces() throws {
    let folder = try ScratchFolder()
    let loop = try EventLoop()
    let (queue, workers) = (try IOQueue(loop), try Workers(loop))
    let mapper = UserspaceDeviceMapper(loop: loop, queue: queue, workers: workers)
    let judge = MetadataJudge(
      loop, care: .full, tickets: nil, note: { _ in }, goesOn: { _, _, _ in })
    var judged: (access: PoolMetadataAccess, pieces: [DescriptorPiece])?
    var verdict: MetadataVerdict?
    mapper.judgeMetadata = { access, answer in
      if let pieces = access.pieces { judged = (access, pieces) }
      judge.judge(access) {
        verdict = $0
        answer($0)
      }
    }
    let (first, second) = try scattered(folder)
    let data = try folder.zeros("data", size: 1 << 20)
    func make(_ name: String, _ lines: [TableLine]) {
      mapper.create(DeviceCreation(name: name, table: lines)) { result in
        if case .failure(let error) = result { Issue.record("\(error)") }
      }
    }
    make(
      "meta",
      [
        TableLine(start: 0, length: 1024, type: "linear", parameters: "\(first) 8"),
        TableLine(start: 1024, length: 1024, type: "linear", parameters: "\(second) 0"),
        TableLine(
          start: 2048, length: 2048, type: "striped",
          parameters: "2 8 \(first) 2048 \(second) 2048"),
      ])
    make(
      "pool",
      [TableLine(start: 0, length: 2048, type: "thin-pool", parameters: "meta \(data) 128 0")])
    // Nothing has been decided yet: others have their turn meanwhile.
    #expect(verdict == nil)
    loop.run(within: 60_000_000_000, until: { verdict != nil })
    guard case .sound = verdict else {
      Issue.record("\(String(describing: verdict))")
      return
    }
    let (access, pieces) = try #require(judged)
    #expect(access.descriptor == nil && pieces.count == 258)
    let device = try #require(PiecedDevice(pieces, path: "meta", byteCount: 2 << 20))
    let (mine, theirs) = (AlignedBuffer(count: 12_288), AlignedBuffer(count: 12_288))
    for offset in stride(from: 0 as UInt64, to: (2 << 20) - 12_288, by: 20_480) {
      try device.read(into: mine.bytes, at: offset)
      try access.device.read(into: theirs.bytes, at: offset)
      #expect(mine.bytes.elementsEqual(theirs.bytes))
    }
    #expect(throws: BlockIOError.self) { try device.read(into: mine.bytes, at: (2 << 20) - 4096) }
    mapper.removeAll()
    judge.close()
    workers.close()
    queue.close()
  }
}
