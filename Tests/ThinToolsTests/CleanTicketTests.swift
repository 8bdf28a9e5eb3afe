import BlockIO
import Glibc
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

@Suite("Tickets of metadata that was left sound")
struct CleanTicketTests {
  private let folder: ScratchFolder
  private let metadata: String
  private let notes: String
  private var tickets: CleanTickets { CleanTickets(folder: notes) }

  init() throws {
    folder = try ScratchFolder()
    metadata = try folder.zeros("meta", size: 1 << 20)
    notes = folder.file("state/tickets")
    let device = try FileDevice(path: metadata, access: .readWrite, exclusive: true)
    let pool = try PoolMetadata.format(device, dataBlockSectors: 128)
    try pool.createThin(1)
    try pool.commit()
  }

  private func open(_ path: String? = nil) throws -> FileDevice {
    try FileDevice(path: path ?? metadata, access: .readWrite, exclusive: false)
  }

  private func redeem(_ path: String? = nil) throws -> Bool {
    let device = try open(path)
    return tickets.redeem(try #require(device.descriptor))
  }

  private func issue() throws {
    let device = try open()
    #expect(tickets.issue(try #require(device.descriptor)))
  }

  private var files: [String] { Folder.names(in: notes) }

  @Test("a ticket is valid once, and only for its metadata")
  func once() throws {
    #expect(try !redeem())
    try issue()
    #expect(files.count == 1)
    let copy = try folder.copy(of: metadata, as: "copy")
    #expect(try !redeem(copy))
    #expect(try redeem())
    #expect(files.isEmpty)
    #expect(try !redeem())
  }

  @Test("an equal superblock is not enough: a block changed and restored invalidates the ticket")
  func rewritten() throws {
    try issue()
    let device = try open()
    let buffer = AlignedBuffer(count: 4096)
    for block in [0, 20] as [UInt64] {
      try device.read(into: buffer.bytes, at: block * 4096)
      try device.write(UnsafeRawBufferPointer(buffer.bytes), at: block * 4096)
    }
    try device.flush()
    #expect(try !redeem())
    #expect(files.isEmpty)
    // The size of the file differs, although the superblock is the same.
    try issue()
    #expect(truncate(metadata, 2 << 20) == 0)
    #expect(try !redeem())
  }

  @Test("a ticket that other users could have written, or that cannot be removed, is invalid")
  func untrusted() throws {
    try issue()
    let note = "\(notes)/\(try #require(files.first))"
    let text = try contents(of: note)
    func put(_ change: () throws -> Void) throws {
      unlink(note)
      _ = try folder.file("text", bytes: text)
      try change()
    }
    try put { #expect(symlink(folder.file("text"), note) == 0) }
    #expect(try !redeem())
    try put { #expect(link(folder.file("text"), note) == 0) }
    #expect(try !redeem())
    try put {
      #expect(rename(folder.file("text"), note) == 0 && chmod(note, 0o666) == 0)
    }
    #expect(try !redeem())
    try put {
      #expect(rename(folder.file("text"), note) == 0 && chmod(note, 0o600) == 0)
      #expect(chmod(notes, 0o777) == 0)
    }
    #expect(try !redeem())
    #expect(chmod(notes, 0o700) == 0)
    #expect(rename(notes, notes + ".there") == 0 && symlink(notes + ".there", notes) == 0)
    #expect(try !redeem())
    unlink(notes)
    #expect(rename(notes + ".there", notes) == 0)
    // A ticket refused because of its folder alone is still good, while foreign text is not a
    // ticket.
    #expect(try redeem())
    try put { #expect(mkdir(note, 0o700) == 0) }
    #expect(try !redeem())
    rmdir(note)
    _ = try folder.file("text", text: "clean metadata 1\n")
    #expect(rename(folder.file("text"), note) == 0 && chmod(note, 0o600) == 0)
    #expect(try !redeem())
  }

  @Test("tickets of missing files are cleared, those of existing files and other files are kept")
  func cleared() throws {
    try issue()
    let other = try folder.zeros("other", size: 1 << 20)
    let device = try open(other)
    #expect(tickets.issue(try #require(device.descriptor)))
    func put(_ name: String, _ text: String) throws {
      let path = try folder.file("new", text: text)
      #expect(chmod(path, 0o600) == 0 && rename(path, "\(notes)/\(name)") == 0)
    }
    let boot = try #require(WholeFile.systemText("/proc/sys/kernel/random/boot_id"))
    func note(_ changes: String) -> String {
      "clean metadata 1\nsuperblock 1\nbytes 4096\nchanges \(changes)\n"
    }
    try put("dm-LVM_", note("another-boot 1 2 3 4 5"))
    try put("dm-kept", note("\(boot) 1 2 3 4 5"))
    try put("device-8:0", note("another-boot 1 2 3 4 5"))
    try put("device-4000:1", note("\(boot) 7 2 3 4 5"))
    try put("notes.txt", "a user's own")
    try put("file-1-2.new", "half a no")
    #expect(tickets.clear() == 3)
    #expect(files.sorted().filter { !$0.hasPrefix("file-") } == ["dm-kept", "notes.txt"])
    #expect(files.count == 5)
    // The note of a deleted file is kept for a week, that of an existing file for longer.
    unlink(other)
    let (day, now) = (86_400, time(nil))
    #expect(tickets.clear(now: now + 2 * day) == 1)
    #expect(!files.contains("file-1-2.new") && files.count == 4)
    #expect(tickets.clear(now: now + 8 * day) == 1)
    #expect(files.count == 3)
    #expect(tickets.clear(now: now + 100 * day) == 0)
    #expect(try redeem())
    try issue()
    // Another file has taken its place.
    #expect(rename(metadata, folder.file("moved")) == 0)
    _ = try folder.zeros("meta", size: 1 << 20)
    #expect(tickets.clear(now: now + 6 * day) == 0)
    #expect(tickets.clear(now: now + 8 * day) == 1)
    #expect(tickets.clear(now: now + 200 * day) == 1)
    #expect(files == ["notes.txt"])
    // A folder that other users could have filled is left alone.
    try put("dm-LVM_", note("another-boot 1 2 3 4 5"))
    #expect(chmod(notes, 0o777) == 0)
    #expect(tickets.clear(now: now + 200 * day) == 0)
  }
}
