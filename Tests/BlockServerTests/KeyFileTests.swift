import Glibc
import TestSupport
import Testing

@testable import BlockServer

@Suite("Files of keys")
struct KeyFileTests {
  private let folder: ScratchFolder

  init() throws { folder = try ScratchFolder() }

  @Test(
    "A file of shared keys that is none, has none, or has one that can be guessed is refused by name",
    arguments: [
      ("", "has no key"), ("\n\n", "has no key"), ("alice", "line 1 is not NAME:HEX"),
      ("alice:", "line 1 is not NAME:HEX"), (":0123456789abcdef0123456789abcdef", "line 1 is not"),
      ("alice:xyz", "line 1 is not NAME:HEX"),
      ("alice:0123456789abcdef0123456789abcdef0", "line 1 is not NAME:HEX"),
      ("alice:0123456789abcdef0123456789abcd", "line 1 has a key of 15 bytes"),
      ("alice:0123456789abcdef0123456789abcdef\nbob:00", "line 2 has a key of 1 bytes"),
    ])
  func refused(_ text: String, _ words: String) throws {
    let path = try folder.file("keys", text: text)
    #expect(KeyFile.fault(path)?.contains(words) == true)
    let error = #expect(throws: TLSError.self) { try TLSCredentials(sharedKeys: path) }
    #expect(error?.description.hasPrefix("\(path): \(words.prefix(4))") == true)
  }

  @Test("A file of shared keys must be a text file")
  func noText() throws {
    #expect(KeyFile.fault(folder.file("."))?.contains("no regular file") == true)
    #expect(KeyFile.fault(folder.file("none")) != nil)
    let path = try folder.file("binary", bytes: Array(0...255))
    #expect(KeyFile.fault(path)?.contains("NAME:HEX") == true)
  }

  @Test("Valid keys are accepted, with a warning if other users can read them")
  func warned() throws {
    let path = try folder.file(
      "keys",
      text: "alice:0123456789abcdef0123456789abcdef\r\n\nbob:0123456789ABCDEF0123456789abcdef")
    #expect(KeyFile.fault(path) == nil)
    for (mode, isOpen) in [(0o600, false), (0o640, true), (0o604, true)] as [(mode_t, Bool)] {
      #expect(chmod(path, mode) == 0)
      #expect((KeyFile.warnings(path) == []) != isOpen)
      #expect(
        try Security(.allow, TLSCredentials(sharedKeys: path)).warnings.contains {
          $0.contains("other users may read this key; run: chmod 600 \(path)")
        } == isOpen)
    }
  }
}
