import BlockIO
import CDMThin
import Glibc
import TestSupport
import Testing

/// An idle program that has a copy of a descriptor while this object lives, like a child that
/// another thread is just starting, before it calls exec.
private final class Heir {
  private var child: pid_t = 0
  private let input: Int32

  init(of descriptor: Int32) throws {
    var ends: [Int32] = [0, 0]
    try #require(dmthin_pipe(&ends) == 0)
    input = ends[1]
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
    posix_spawn_file_actions_adddup2(&actions, descriptor, 3)
    var words: [UnsafeMutablePointer<CChar>?] = [strdup("/bin/cat"), nil]
    defer { free(words[0]) }
    try #require(posix_spawn(&child, "/bin/cat", &actions, nil, &words, environ) == 0)
    close(ends[0])
  }

  deinit {
    close(input)
    var status: Int32 = 0
    kill(child, SIGKILL)
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
  }
}

@Suite("Ownership of descriptors")
struct DescriptorTests {
  @Test("a lock ends with its owner, even if a child has inherited the descriptor")
  func locks() throws {
    let file = try ScratchFile(size: 65536)
    for access in [FileDevice.Access.readWrite, .readOnly] {
      var device: FileDevice? = try FileDevice(path: file.path, access: access, exclusive: true)
      let descriptor = try #require(device?.descriptor)
      let heir = try Heir(of: descriptor)
      withExtendedLifetime(heir) {
        device = nil
        #expect(throws: Never.self) {
          _ = try FileDevice(path: file.path, access: .readWrite, exclusive: true)
        }
      }
    }
  }

  @Test("children of tests have only standard input, output and error open")
  func children() throws {
    let open = dup(2)
    try #require(open > 2)
    defer { close(open) }
    // The folder itself is the fourth.
    let listed = try run(["/bin/ls", "/proc/self/fd"]).text.split(separator: "\n").map {
      String($0)
    }
    #expect(listed == ["0", "1", "2", "3"])
  }

  @Test("every program opens missing standard descriptors before anything else")
  func mains() throws {
    let found = try shell(
      "cd '\(Repository.root)' && grep -rl --include='*.swift' '^@main' Sources contrib")
    let programs = found.text.split(separator: "\n")
    #expect(programs.count >= 9)
    for program in programs {
      let text = String(decoding: try contents(of: "\(Repository.root)/\(program)"), as: UTF8.self)
      let main = text.split(separator: "static func main()").last ?? ""
      let first = main.split(separator: "\n").dropFirst().first ?? ""
      #expect(first.contains("dmthin_begin_program()"), "\(program)")
    }
  }

  static let subsets = (1...7).map { mask in (0...2).filter { mask >> $0 & 1 == 1 } }

  @Test(
    "nothing but metadata is written to metadata, whichever standard descriptors are closed",
    arguments: subsets)
  func closed(_ closed: [Int]) throws {
    let folder = try ScratchFolder(in: "/dev/shm")
    let tools = try Tools.folder.get()
    let text = try folder.file("pool.xml", text: Self.pool)
    let good = try folder.zeros("good", size: 1 << 20)
    #expect(try run(["\(tools)/thin_restore", "-q", "-i", text, "-o", good]).status == 0)
    let leaky = try folder.copy(of: good, as: "leaky")
    let closing = closed.map { $0 == 0 ? "<&-" : "\($0)>&-" }.joined(separator: " ")
    // The flag is set, so that the check has something to write.
    let marked = try folder.file(
      "marked.xml", text: Self.pool.replacing("<superblock ", with: "<superblock flags=\"1\" "))
    #expect(try run(["\(tools)/thin_restore", "-q", "-i", marked, "-o", leaky]).status == 0)
    for (command, file) in [
      ("thin_check --clear-needs-check-flag", leaky), ("thin_check --auto-repair", leaky),
      ("thin_check --auto-repair", text), ("thin_restore -i \(text) -o", good),
      ("thin_restore -i \(leaky) -o", good), ("thin_dump -o \(folder.file("out")) --repair", leaky),
    ] {
      let work = try folder.copy(of: file, as: "work")
      let plain = try folder.copy(of: file, as: "plain")
      let expected = try shell("\(tools)/\(command) \(plain) >/dev/null 2>&1 </dev/null")
      let found = try shell("\(tools)/\(command) \(work) \(closing)")
      #expect(found.status == expected.status, "\(command), without \(closed)")
      #expect(try contents(of: work) == contents(of: plain), "\(command), without \(closed)")
    }
  }

  private static let pool = """
    <superblock uuid="" time="1" transaction="3" version="2" data_block_size="128" nr_data_blocks="512">
      <device dev_id="1" mapped_blocks="2" transaction="0" creation_time="0" snap_time="1">
        <range_mapping origin_begin="0" data_begin="4" length="2" time="0"/>
      </device>
    </superblock>

    """
}
