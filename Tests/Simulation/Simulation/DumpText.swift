import BlockIO
import CDMThin
import Glibc
import ThinTools

/// Dumps of pools, in memory.
final class DumpText {
  /// The file with the last dump.
  let descriptor = dmthin_memory_file("dump")

  deinit { close(descriptor) }

  /// The committed state: the superblock and the dump.
  func state(of device: MemoryDevice) throws -> [UInt8] {
    Array(device.peek(0)) + (try self(device))
  }

  /// The dump of `device`.
  func callAsFunction(_ device: any BlockDevice) throws -> [UInt8] {
    ftruncate(descriptor, 0)
    lseek(descriptor, 0, SEEK_SET)
    let sink = ByteSink(descriptor: descriptor, path: "memory")
    try ThinDump.run(device, to: sink, options: DumpOptions(), progress: Progress())
    let size = Int(lseek(descriptor, 0, SEEK_END))
    lseek(descriptor, 0, SEEK_SET)
    return [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      count = max(0, pread(descriptor, buffer.baseAddress, size, 0))
    }
  }
}
