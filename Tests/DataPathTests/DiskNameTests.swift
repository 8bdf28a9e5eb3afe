import BlockIO
import EventLoop
import Glibc
import TestSupport
import Testing

@testable import DataPath

@Suite("Names of disks")
struct DiskNameTests {
  @Test("A word before a colon is a scheme, and any other name is a path")
  func schemes() {
    let schemes = ["memory:1g": "memory", "a2-b+c:": "a2-b+c", "file:/a:b": "file", "xy:/:": "xy"]
    for (name, scheme) in schemes { #expect(DiskName(name).scheme == scheme, "\(name)") }
    let paths = [
      "", ":", "/dev/x", "a", "./memory:1g", "a/memory:1g", "C:x", "c:x", "8:0", "1x:y",
      "Memory:1g",
      "a_b:c", "-a:b", "ä:b", "äb:c", "memory", " memory:1g", "a b:c",
    ]
    for name in paths {
      #expect(DiskName(name).scheme == nil, "\(name)")
      #expect(DiskName(name).rest == name && DiskName(name).path == name)
    }
    #expect(DiskName("memory:1g:x").rest == "1g:x")
  }

  @Test("A path after file: is that path, also if it looks like another scheme")
  func filePaths() {
    #expect(DiskName("file:/a:b").path == "/a:b")
    #expect(DiskName("file:memory:1g").path == "./memory:1g")
    #expect(DiskName("memory:1g").path == nil)
    #expect(DiskName("unknown:1g").path == nil)
  }

  private func refusal(_ name: String) -> BlockIOError? {
    do throws(BlockIOError) {
      _ = try DiskResolver.find(name)
      return nil
    } catch {
      return error
    }
  }

  @Test("An unknown scheme is refused, with the known ones and the way to name a file")
  func unknown() throws {
    let error = try #require(refusal("mirror:a"))
    #expect(error.operation == .find)
    let text = error.description
    #expect(text.hasPrefix("cannot find mirror:a: no kind of disk is called mirror;"), "\(text)")
    for kind in DiskKind.all { #expect(text.contains(kind.form)) }
    #expect(text.hasSuffix("give ./mirror:a"), "\(text)")
  }

  @Test("Each kind has a scheme of its own that is read as one, and words for help")
  func kinds() {
    let schemes = DiskKind.all.map(\.scheme)
    #expect(Set(schemes).count == schemes.count)
    for kind in DiskKind.all {
      #expect(DiskName(kind.form).scheme == kind.scheme)
      #expect(!kind.summary.isEmpty)
    }
  }

  @Test("What is missing, is no disk, or has no size is refused")
  func refusals() throws {
    let missing = try #require(refusal("file:/none/x"))
    #expect(missing.description == "cannot find /none/x: No such file or directory")
    #expect(refusal("/none/x") == missing)
    #expect(refusal("/dev/null")?.code == ENOTBLK)
    for name in ["memory:", "memory:1", "null:x", "memory:1g/", "null:9e", "memory:100b"] {
      #expect(refusal(name)?.operation == .find, "\(name)")
    }
  }

  @Test("Names of the same disk have one identity, and other disks others")
  func identities() throws {
    let folder = try ScratchFolder()
    let (a, b) = (try folder.zeros("a", size: 4096), try folder.zeros("b", size: 4096))
    #expect(symlink(a, folder.file("link")) == 0)
    let identity = try DiskResolver.find(a).identity
    for name in ["file:\(a)", folder.file("link")] {
      #expect(try DiskResolver.find(name).identity == identity)
    }
    #expect(try DiskResolver.find(b).identity != identity)
    let memory = try DiskResolver.find("memory:1g")
    #expect(try DiskResolver.find("memory:1024M").identity == memory.identity)
    for name in ["memory:2g", "memory:1g/a", "null:1g"] {
      #expect(try DiskResolver.find(name).identity != memory.identity, "\(name)")
    }
    #expect(memory.blankByteCount == 1 << 30 && memory.path == nil)
    #expect(try DiskResolver.find(a).blankByteCount == nil && DiskResolver.find(a).path == a)
  }
}

/// Records the ends of requests.
private final class Outcomes: RequestOwner {
  var errors: [Int32] = []
  override func requestDone(_ request: RequestPointer) {
    errors.append(request.pointee.errorNumber)
  }
}

@Suite("Disks without a file")
struct BlankDiskTests {
  private let loop: EventLoop
  private let context: DiskContext
  private let requests = RequestPool()
  private let outcomes = Outcomes()

  init() throws {
    loop = try EventLoop()
    context = DiskContext(loop, try IOQueue(loop), try Workers(loop))
  }

  private func close() {
    context.queue.close()
    context.workers.close()
  }

  private func perform(
    _ operation: BlockOperation, _ disk: any Disk, at offset: UInt64 = 0, count: Int = 0,
    _ buffer: AlignedBuffer? = nil
  ) -> Int32 {
    let done = outcomes.errors.count
    disk.submit(
      requests.take(
        operation, offset: offset, byteCount: count, buffer: buffer?.bytes.baseAddress,
        owner: outcomes))
    // Never from within submit.
    #expect(outcomes.errors.count == done)
    loop.run(within: 600_000_000_000, until: { outcomes.errors.count > done })
    return outcomes.errors.last ?? -1
  }

  @Test("A disk in memory begins with zeros, keeps what is written, and forgets it at its end")
  func memory() throws {
    defer { close() }
    let buffer = AlignedBuffer(count: 8192)
    for _ in 0..<2 {
      let disk = try DiskResolver.open("memory:1t/x", readOnly: false, in: context)
      #expect(disk.byteCount == 1 << 40)
      let last: UInt64 = 1 << 40 - 4096
      buffer.bytes.initializeMemory(as: UInt8.self, repeating: 7)
      #expect(perform(.read, disk, at: last - 4096, count: 8192, buffer) == 0)
      #expect(buffer.bytes.allSatisfy { $0 == 0 })
      buffer.bytes.initializeMemory(as: UInt8.self, repeating: 7)
      #expect(perform(.write, disk, at: last, count: 4096, buffer) == 0)
      #expect(perform(.flush, disk) == 0)
      #expect(perform(.read, disk, at: last - 4096, count: 8192, buffer) == 0)
      #expect(buffer.bytes[4095] == 0 && buffer.bytes[4096] == 7)
      #expect(disk.isHole(0..<last) && !disk.isHole(last..<last + 4096))
      #expect(perform(.discard, disk, at: last, count: 4096) == 0)
      #expect(disk.isHole(last..<last + 4096))
      #expect(perform(.read, disk, at: last, count: 8192, buffer) == EIO)
      #expect(disk.openDescriptor == nil)
    }
  }

  @Test("A null disk reads as zeros whatever was written, and has limits")
  func null() throws {
    defer { close() }
    let buffer = AlignedBuffer(count: 4096)
    let disk = try DiskResolver.open("null:1m", readOnly: false, in: context)
    buffer.bytes.initializeMemory(as: UInt8.self, repeating: 7)
    #expect(perform(.write, disk, count: 4096, buffer) == 0)
    #expect(perform(.flush, disk) == 0)
    #expect(perform(.read, disk, count: 4096, buffer) == 0)
    #expect(buffer.bytes.allSatisfy { $0 == 0 })
    for operation in [.read, .write, .discard, .writeZeroes] as [BlockOperation] {
      #expect(perform(operation, disk, at: 1 << 20, count: 512, buffer) == EIO)
      #expect(perform(operation, disk, at: .max - 511, count: 512, buffer) == EIO)
    }
    #expect(perform(.discard, disk, count: 1 << 20) == 0)
    #expect(perform(.writeZeroes, disk, count: 1 << 20) == 0)
    let readOnly = try DiskResolver.open("null:1m", readOnly: true, in: context)
    #expect(perform(.write, readOnly, count: 512, buffer) == EROFS)
    #expect(perform(.flush, readOnly) == 0)
    #expect(readOnly.isReadOnly && !readOnly.takesDiscards)
  }
}
