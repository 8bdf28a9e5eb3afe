import BlockIO
import CDMThin
import Glibc
import TestSupport
import Testing

/// How programs protect files when they write. The kernel's part, and a table of all cases, are in
/// contrib/kernel/scenarios/outputs.sh.
@Suite("Outputs are protected")
struct OutputTests {
  private let folder: ScratchFolder
  private let metadata: String
  private let xml: String
  /// A dump of the metadata.
  private let text: [UInt8]

  init() throws {
    folder = try ScratchFolder()
    xml = try folder.file("pool.xml", text: Self.pool(devices: 3))
    metadata = try folder.zeros("metadata", size: 1 << 20)
    #expect(try run([Tools.path("thin_restore"), "-q", "-i", xml, "-o", metadata]).status == 0)
    text = try run([Tools.path("thin_dump"), metadata]).output
  }

  private static func pool(devices: Int) -> String {
    var text =
      "<superblock uuid=\"\" time=\"1\" transaction=\"3\" version=\"2\" data_block_size=\"128\" "
      + "nr_data_blocks=\"512\">\n"
    for id in 1...devices {
      text +=
        "  <device dev_id=\"\(id)\" mapped_blocks=\"1\" transaction=\"0\" creation_time=\"0\" "
        + "snap_time=\"1\">\n    <single_mapping origin_block=\"0\" data_block=\"\(id)\" time=\"0\"/>\n"
        + "  </device>\n"
    }
    return text + "</superblock>\n"
  }

  private func tool(_ arguments: String...) throws -> ProcessResult {
    try run([try Tools.path(arguments[0])] + arguments.dropFirst())
  }

  @Test("a text replaces the old file as a whole, under this name only, and keeps its mode")
  func replaced() throws {
    for place in [nil, "/dev/shm"] {
      let there = try ScratchFolder(in: place)
      let old = try there.file("old.xml", text: "yesterday\n")
      chmod(old, 0o640)
      #expect(link(old, there.file("other name")) == 0)
      #expect(symlink("old.xml", there.file("link")) == 0)
      #expect(try tool("thin_dump", "-o", there.file("link"), metadata).status == 0)
      #expect(try contents(of: old) == text)
      #expect(try contents(of: there.file("other name")) == Array("yesterday\n".utf8))
      var info = stat()
      #expect(lstat(there.file("link"), &info) == 0 && info.st_mode & S_IFMT == S_IFLNK)
      #expect(stat(old, &info) == 0 && info.st_mode & 0o777 == 0o640)
      #expect(Folder.names(in: there.path).sorted() == ["link", "old.xml", "other name"])
    }
  }

  @Test("a dump that fails at any point leaves the old file and nothing else")
  func kept() throws {
    let damaged = try folder.copy(of: metadata, as: "damaged")
    let broken = try shell(
      "dd if=/dev/urandom of='\(damaged)' bs=4096 seek=1 count=6 conv=notrunc status=none")
    #expect(broken.status == 0)
    let backups = try ScratchFolder()
    let backup = try backups.file("backup.xml", text: "yesterday")
    let dump = try Tools.path("thin_dump")
    for (command, status) in [
      ("'\(dump)' -o '\(backup)' '\(damaged)'", 64),
      ("'\(dump)' -m -o '\(backup)' '\(metadata)'", 64),
      ("'\(dump)' -o '\(backup)' /no/such/metadata", 66),
      ("ulimit -f 0; '\(dump)' -o '\(backup)' '\(metadata)'", 74),
      ("'\(dump)' -o '\(backups.path)/no/folder' '\(metadata)'", 73),
      ("'\(dump)' -o '\(backups.path)' '\(metadata)'", 73),
    ] {
      let result = try shell(command)
      #expect(result.status == status, "\(command): \(result.errors)")
      #expect(try contents(of: backup) == Array("yesterday".utf8), "\(command)")
      #expect(Folder.names(in: backups.path) == ["backup.xml"], "\(command)")
    }
  }

  @Test("an input is never overwritten, by any name, nor is other metadata overwritten with text")
  func inputs() throws {
    let before = try contents(of: metadata)
    let dump = try contents(of: xml)
    #expect(
      link(metadata, folder.file("hard")) == 0 && symlink("metadata", folder.file("soft")) == 0)
    #expect(link(xml, folder.file("hard.xml")) == 0)
    let other = try folder.copy(of: metadata, as: "other")
    for name in ["metadata", "hard", "soft"] {
      for repair in [[], ["--repair"]] {
        let result = try run(
          [try Tools.path("thin_dump")] + repair + ["-o", folder.file(name), metadata])
        #expect(result.status == 73 && result.errors.contains("is the input"), "\(result.errors)")
      }
    }
    for name in ["pool.xml", "hard.xml"] {
      let result = try tool("thin_restore", "-i", xml, "-o", folder.file(name))
      #expect(result.status == 73, "\(result.errors)")
    }
    let precious = try tool("thin_dump", "-o", other, metadata)
    #expect(precious.status == 73 && precious.errors.contains("metadata of a thin pool"))
    #expect(try contents(of: metadata) == before && contents(of: other) == before)
    #expect(try contents(of: xml) == dump)
  }

  @Test("messages and results are not written to inputs or outputs")
  func standardOutput() throws {
    let before = try contents(of: metadata)
    let tools = try Tools.folder.get()
    for command in [
      "thin_check '\(metadata)' >>'\(metadata)'", "thin_check '\(metadata)' 2>>'\(metadata)'",
      "thin_dump '\(metadata)' 1<>'\(metadata)'", "thin_ls '\(metadata)' 1<>'\(metadata)'",
      "thin_restore -i /no/such/file -o '\(metadata)' 2<>'\(metadata)'",
      "thin_check --auto-repair '\(metadata)' >>'\(metadata)' 2>&1",
    ] {
      let result = try shell("'\(tools)'/\(command)")
      #expect(result.status == 73, "\(command): \(result.errors)")
      #expect(try contents(of: metadata) == before, "\(command)")
    }
    let closed = try shell("'\(tools)'/thin_dump '\(metadata)' >&-")
    #expect(closed.status == 73 && closed.errors.contains("standard output is closed"))
  }

  @Test("a locked file is left alone, for any kind of lock, and the holder is named")
  func locked() throws {
    let device = try FileDevice(path: metadata, access: .readWrite, exclusive: true)
    let before = try contents(of: metadata)
    let text = try tool("thin_dump", "-o", metadata, xml)
    #expect(text.status != 0)
    let copy = try folder.copy(of: metadata, as: "copy")
    for arguments in [
      ["thin_dump", "-o", metadata, copy], ["thin_restore", "-i", xml, "-o", metadata],
      ["thin_check", "--auto-repair", metadata], ["thin_check", metadata],
    ] {
      let result = try run([try Tools.path(arguments[0])] + arguments.dropFirst())
      #expect(
        result.status == 75 && result.errors.contains("(process \(getpid()))"), "\(result.errors)")
    }
    #expect(try contents(of: metadata) == before)
    withExtendedLifetime(device) {}
    // A lock on a range with fcntl(2), as qemu locks its images.
    let ranged = open(copy, O_RDWR | O_CLOEXEC)
    defer { close(ranged) }
    var lock = flock()
    lock.l_type = Int16(F_WRLCK)
    lock.l_start = 100
    lock.l_len = 1
    try #require(fcntl(ranged, F_SETLK, &lock) == 0)
    #expect(try tool("thin_restore", "-i", xml, "-o", copy).status == 75)
    #expect(try tool("thin_dump", "-o", copy, metadata).status == 75)
  }

  @Test("dumps can be written to pipes, devices and descriptors")
  func streams() throws {
    let tools = try Tools.folder.get()
    for line in [
      "thin_dump -o /dev/stdout '\(metadata)'", "thin_dump -o /dev/fd/3 '\(metadata)' 3>&1",
      "thin_dump -o /proc/self/fd/1 '\(metadata)' | cat",
    ] {
      #expect(try shell("'\(tools)'/\(line)").output == text, "\(line)")
    }
    #expect(try tool("thin_dump", "-o", "/dev/null", metadata).status == 0)
    let more = try shell(
      "{ echo before; '\(tools)'/thin_dump -o /dev/stdout '\(metadata)'; } >'\(folder.path)/more'")
    #expect(more.status == 0)
    #expect(try contents(of: folder.file("more")) == Array("before\n".utf8) + text)

    let new = try folder.zeros("new", size: 1 << 20)
    for (line, status) in [
      ("cat '\(xml)' | '\(tools)'/thin_restore -i /dev/stdin -o '\(new)'", 0),
      ("'\(tools)'/thin_restore -i <(cat '\(xml)') -o '\(new)'", 0),
      ("'\(tools)'/thin_restore -i /proc/self/fd/0 -o /proc/self/fd/4 <'\(xml)' 4<>'\(new)'", 0),
      ("{ cat '\(xml)'; echo more; } | '\(tools)'/thin_restore -i /dev/stdin -o '\(new)'", 64),
      (
        "cat '\(xml)' | TMPDIR=/no/such/folder '\(tools)'/thin_restore -i /dev/stdin -o '\(new)'",
        73
      ),
      ("'\(tools)'/thin_restore -i /dev/zero -o '\(new)'", 64),
    ] {
      let result = try shell(line)
      #expect(result.status == status, "\(line): \(result.errors)")
      #expect(try tool("thin_dump", new).output == text, "\(line)")
    }
  }
}

/// The places that open a file for writing or create one. Consider the safety of each new place.
@Suite struct OutputPlacesTests {
  private static let known = [
    "System/BlockIO/TextOutput.swift": "the only way to write text",
    "System/BlockIO/TrustedFolder.swift": "small files of a folder that no other user can change",
    "System/BlockIO/FileReplacement.swift": "the same, for regular files",
    "System/BlockIO/MetadataOutput.swift": "the only way to write metadata",
    "System/BlockIO/ResumableOutput.swift": "the only way to write an image, in several runs",
    "System/BlockIO/OpenFile.swift": "the same: exclusively, by O_EXCL or a lock",
    "System/CDMThin/program.c": "/dev/null for closed descriptors",
    "System/CDMThin/system.c": "files without a name",
    "Commands/Commands/Console.swift": "standard output, checked by InputChecks",
    "BlockPath/DataPath/Disks/Memory/MemoryKind.swift": "a file in memory, without a name",
    "Commands/Commands/OutputChecks.swift": "/dev/null for an error output that is an input",
    "Control/KernelDeviceMapper/KernelDeviceMapper+KernelOnly.swift": "for reading",
    "Control/KernelDeviceMapper/KernelDeviceMapper+Lists.swift": "/dev/mapper/control",
    "Control/PoolManager/SystemProgram.swift": "/dev/null as a child's error output",
    "Control/PoolManager/PoolManager+Create.swift": "claims a device as OpenFile does",
    "Control/PoolManager/RunFolder.swift": "locks, by TrustedFolder",
    "Control/ServerControl/ServerStart.swift": "the log of a started server, by TrustedFolder",
  ]

  @Test("only known places open something for writing: commands use TextOutput and MetadataOutput")
  func places() throws {
    let pattern =
      "O_CREAT|O_TRUNC|O_WRONLY|O_RDWR|O_TMPFILE|access: \\.readWrite|[^a-zA-Z]fopen\\(|ftruncate\\(|"
      + "mkstemp|ByteSink\\("
    let found = try shell("cd '\(Repository.root)/Sources' && grep -rlE '\(pattern)' .")
    let files = Set(found.text.split(separator: "\n").map { String($0.dropFirst(2)) })
    let unknown = files.subtracting(Self.known.keys).sorted()
    #expect(
      unknown.isEmpty, "use TextOutput or MetadataOutput, or list the file here with its protection"
    )
    #expect(Set(Self.known.keys).subtracting(files).isEmpty)
  }
}
