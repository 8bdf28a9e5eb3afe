import BlockIO
import Glibc
import TestSupport
import Testing
import ThinTools

@testable import PoolManager

@Suite struct RunFolderTests {
  @Test("a file that is unreadable or too large counts as present but empty")
  func unreadable() throws {
    let scratch = try ScratchFolder()
    let run = RunFolder(scratch.path)
    #expect(try run.load("7:0", .intent) == nil)
    try run.save("x", "7:0", .intent)
    #expect(try run.load("7:0", .intent) == "x")
    _ = try scratch.zeros("7:0.intent", size: (4 << 20) + 1)
    #expect(try run.load("7:0", .intent) == "")
    #expect(Intent("") == nil && Lease("") == nil)
  }

  @Test("clearing removes files of every kind and incomplete ones, and leaves other files")
  func cleared() throws {
    let scratch = try ScratchFolder()
    let run = RunFolder(control: scratch.file("c"))
    #expect(run.path == scratch.file("c.run"))
    try run.clear()
    for kind in RunFolder.Kind.allCases { try run.save("x", "7:0", kind) }
    let half = "\(run.path("7:1", .intent)).new"
    try #require(symlink("nowhere", half) == 0)
    let other = "\(run.path)/notes"
    try #require(symlink("nowhere", other) == 0)
    try run.clear()
    #expect(Folder.names(in: run.path) == ["notes"])
    unlink(other)
    try run.clear()
    #expect(access(run.path, F_OK) != 0)
  }

  /// Ways in which other users could have made a run folder, or could write to it.
  enum Planting: CaseIterable {
    case link, writable, owner

    /// Plants a folder that has an intent, at a path in `scratch`.
    func plant(_ scratch: ScratchFolder) throws -> String {
      let victim = scratch.file("victim")
      try RunFolder(victim).save("x", "7:0", .intent)
      switch self {
      case .link:
        try #require(symlink(victim, scratch.file("run")) == 0)
        return scratch.file("run")
      case .writable: try #require(chmod(victim, 0o777) == 0)
      case .owner: try #require(chown(victim, 65534, 65534) == 0)
      }
      return victim
    }
  }

  @Test(
    "a run folder that other users may have made or can write to is neither used nor cleared",
    arguments: Planting.allCases)
  func planted(_ planting: Planting) throws {
    // Only root can give away a folder.
    if planting == .owner, geteuid() != 0 { return }
    let scratch = try ScratchFolder()
    let run = RunFolder(try planting.plant(scratch))
    for body in [
      { try run.clear() }, { _ = try run.load("7:0", .intent) },
      { try run.save("y", "7:0", .lease) },
      { _ = try run.pools(with: .intent) }, { _ = try run.lock("7:0", seconds: 0) },
    ] as [() throws -> Void] {
      let error = #expect(throws: ToolError.self) { try body() }
      #expect(
        error?.cause == .unsuitable(.input) && error?.message.contains("remove it") == true,
        "\(planting)")
    }
    run.remove("7:0", .intent)
    #expect(Folder.names(in: scratch.file("victim")) == ["7:0.intent"])
  }

  @Test("a foreign file in a run folder is refused with a sentence")
  func plantedFile() throws {
    let scratch = try ScratchFolder()
    let run = RunFolder(scratch.path)
    let path = run.path("7:0", .lease)
    func expectRefused(_ words: String) {
      let error = #expect(throws: ToolError.self) { _ = try run.load("7:0", .lease) }
      #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
      unlink(path)
    }
    try #require(symlink("/proc/self/status", path) == 0)
    expectRefused("symbolic link")
    try #require(mkfifo(path, 0o600) == 0)
    expectRefused("not a regular file")
    try run.save("x", "7:0", .lease)
    try #require(chmod(path, 0o666) == 0)
    expectRefused("other users may write")
    try run.save("x", "7:0", .lease)
    if geteuid() == 0 {
      try #require(chown(path, 65534, 65534) == 0)
      expectRefused("belongs to user 65534")
    }
  }

  @Test("links on the way to a folder are followed if only root and this user can have made them")
  func links() throws {
    let scratch = try ScratchFolder()
    let inside = scratch.file("inside")
    try #require(mkdir(inside, 0o700) == 0 && symlink("inside/.", scratch.file("link")) == 0)
    #expect(try TrustedFolder(reaching: scratch.file("link/../link")).path.hasSuffix("link"))
    try #require(chmod(scratch.path, 0o777) == 0)
    #expect(throws: TrustedFolder.Fault.self) { try TrustedFolder(reaching: scratch.file("link")) }
    // As in /tmp: only the owner can replace an entry.
    try #require(chmod(scratch.path, 0o1777) == 0)
    _ = try TrustedFolder(reaching: scratch.file("link"))
    try #require(symlink("round", scratch.file("round")) == 0)
    let error = #expect(throws: TrustedFolder.Fault.self) {
      try TrustedFolder(reaching: scratch.file("round"))
    }
    #expect(error?.code == ELOOP)
  }
}
