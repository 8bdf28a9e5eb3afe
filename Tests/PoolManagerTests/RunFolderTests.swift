import BlockIO
import Glibc
import TestSupport
import Testing

@testable import PoolManager

@Suite struct RunFolderTests {
  @Test("a file that cannot be read or is too large is there, and says nothing")
  func unreadable() throws {
    let scratch = try ScratchFolder()
    let run = RunFolder(scratch.path)
    #expect(run.load("7:0", .intent) == nil)
    try run.save("x", "7:0", .intent)
    #expect(run.load("7:0", .intent) == "x")
    _ = try scratch.zeros("7:0.intent", size: (4 << 20) + 1)
    #expect(run.load("7:0", .intent) == "")
    #expect(Intent("") == nil && Lease("") == nil)
  }

  @Test("clearing takes the files of every kind and half-written ones, and leaves what is not ours")
  func cleared() throws {
    let scratch = try ScratchFolder()
    let run = RunFolder(control: scratch.file("c"))
    #expect(run.path == scratch.file("c.run"))
    run.clear()
    for kind in RunFolder.Kind.allCases { try run.save("x", "7:0", kind) }
    let half = "\(run.path("7:1", .intent)).new"
    try #require(symlink("nowhere", half) == 0)
    let other = "\(run.path)/notes"
    try #require(symlink("nowhere", other) == 0)
    run.clear()
    #expect(Folder.names(in: run.path) == ["notes"])
    unlink(other)
    run.clear()
    #expect(access(run.path, F_OK) != 0)
  }
}
