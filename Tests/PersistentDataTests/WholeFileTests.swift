import BlockIO
import Glibc
import TestSupport
import Testing

@Suite struct WholeFileTests {
  private func refusal(_ path: String, upTo bytesMax: Int) -> BlockIOError? {
    do throws(BlockIOError) {
      _ = try WholeFile.bytes(at: path, upTo: bytesMax)
      return nil
    } catch {
      return error
    }
  }

  @Test(
    "a file is read whole if it is no larger than the limit, whatever the size of reads",
    arguments: [0, 1, 65_535, 65_536, 65_537, 200_000])
  func sizes(_ size: Int) throws {
    let folder = try ScratchFolder()
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    let path = try folder.file("x", bytes: bytes)
    #expect(try WholeFile.bytes(at: path, upTo: size) == bytes)
    #expect(try WholeFile.bytes(at: path, upTo: size + 70_000) == bytes)
    guard size > 0 else { return }
    #expect(
      refusal(path, upTo: size - 1)
        == BlockIOError(.read, path: path, offset: UInt64(size - 1), code: EFBIG))
  }

  @Test("what never ends, is no file or is not there is an error")
  func refused() {
    #expect(refusal("/dev/zero", upTo: 100_000)?.code == EFBIG)
    #expect(refusal("/", upTo: 1) == BlockIOError(.read, path: "/", offset: 0, code: EISDIR))
    #expect(refusal("/none", upTo: 1) == BlockIOError(.open, path: "/none", code: ENOENT))
  }

  @Test("texts of the system come without the end of their line, up to 4 KiB of them")
  func systemText() throws {
    let folder = try ScratchFolder()
    #expect(WholeFile.systemText(try folder.file("a", text: " 254:0 x\n")) == " 254:0 x")
    #expect(WholeFile.systemText(try folder.file("b", text: "\n")) == "")
    let line = String(repeating: "x", count: 4095)
    #expect(WholeFile.systemText(try folder.file("c", text: line + "\n")) == line)
    #expect(WholeFile.systemText(try folder.file("d", text: line + "x\n")) == nil)
    #expect(WholeFile.systemText(folder.file("none")) == nil)
  }
}
