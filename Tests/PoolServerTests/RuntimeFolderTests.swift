import Glibc
import TestSupport
import Testing

@testable import PoolServer

@Suite struct RuntimeFolderTests {
  private func mode(_ path: String) -> UInt32? {
    var info = stat()
    return stat(path, &info) == 0 ? info.st_mode & 0o7777 : nil
  }

  @Test("missing folders of a socket below the top are created for this user only")
  func made() throws {
    let folder = try ScratchFolder()
    let top = folder.path + "/"
    RuntimeFolder.make(for: top + "a/b/control", top: top)
    #expect(mode(top + "a") == 0o700 && mode(top + "a/b") == 0o700)
    #expect(mode(top + "a/b/control") == nil)
    #expect(chmod(top + "a", 0o755) == 0)
    RuntimeFolder.make(for: top + "a/control", top: top)
    #expect(mode(top + "a") == 0o755)
  }

  @Test("elsewhere, and through .., no folder is created")
  func refused() throws {
    let folder = try ScratchFolder()
    let top = folder.path + "/run/"
    RuntimeFolder.make(for: folder.path + "/other/control", top: top)
    #expect(mkdir(top, 0o755) == 0)
    RuntimeFolder.make(for: top + "../other/control", top: top)
    RuntimeFolder.make(for: top + "control", top: top)
    #expect(mode(folder.path + "/other") == nil)
  }

  @Test("a link is not followed, and nothing is created where other users may write")
  func distrusted() throws {
    let folder = try ScratchFolder()
    let top = folder.path + "/run/"
    for name in ["/run", "/run/open", "/other"] { #expect(mkdir(folder.path + name, 0o755) == 0) }
    #expect(symlink(folder.path + "/other", top + "link") == 0 && chmod(top + "open", 0o777) == 0)
    RuntimeFolder.make(for: top + "link/in/control", top: top)
    RuntimeFolder.make(for: top + "open/in/control", top: top)
    #expect(mode(folder.path + "/other/in") == nil && mode(top + "open/in") == nil)
  }
}
