import Glibc
import Simulation
import TestSupport
import Testing
import ThinFormat
import ThinTools

@testable import PoolManager

@Suite("Records of external origins")
struct OriginRecordsTests {
  private let folder: ScratchFolder
  private let metadata: String

  init() throws {
    folder = try ScratchFolder()
    metadata = try folder.zeros("meta", size: 4096)
  }

  private func records() throws -> OriginRecords {
    try #require(OriginRecords(metadata: metadata, folder: folder.file("origins")))
  }

  @Test("A record is read back, snapshots inherit it, and it is deleted with the device")
  func life() throws {
    let records = try records()
    #expect(records.load() == [:])
    try records.update { $0[5] = "/a path/with blanks" }
    try records.update { origins in
      origins.inherit([SnapshotVolume(origin: 5, new: 6), SnapshotVolume(origin: 9, new: 7)])
    }
    #expect(records.load() == [5: "/a path/with blanks", 6: "/a path/with blanks"])
    try records.update { $0.forget(0...5) }
    #expect(records.load() == [6: "/a path/with blanks"])
    // Another pool has its own records.
    let other = try folder.zeros("other", size: 4096)
    let others = OriginRecords(metadata: other, folder: folder.file("origins"))
    #expect(others?.load() == [:])
    try records.update { $0.forget(6...6) }
    #expect(records.load() == [:])
  }

  @Test("Any bytes are parsed or rejected, and a path that cannot be read back is not kept")
  func damage() throws {
    let records = try records()
    try records.update { origins in
      origins[1] = "/one"
      origins[2] = "/two\n3 /three"
    }
    #expect(records.load() == [1: "/one"])
    let names = try shell("ls '\(folder.file("origins"))'").text.split(separator: "\n")
    let name = "origins/\(try #require(names.first))"
    var random = SplitMix64(seed: 5)
    for _ in 0..<200 {
      let tail = (0..<Int.random(in: 0...200, using: &random)).map { _ in
        UInt8.random(in: 0...255, using: &random)
      }
      _ = try folder.file(name, bytes: Array("dmthin origins 1\n".utf8) + tail)
      _ = records.load()
    }
    chmod(folder.file("origins"), 0o777)
    #expect(records.load() == [:])
    #expect(throws: ToolError.self) { try records.update { $0[1] = "/one" } }
  }
}
