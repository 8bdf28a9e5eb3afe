import CDMThin
import Glibc
import Testing

/// A device of `blocks` blocks in a memory file, each filled with its own number.
func numberedFile(blocks: Int) throws -> Int32 {
  let fd = dmthin_memory_file("device")
  try #require(fd >= 0)
  var words = [UInt64](repeating: 0, count: 512)
  for block in 0..<blocks {
    for i in 0..<512 { words[i] = UInt64(block) }
    let n = words.withUnsafeBytes { write(fd, $0.baseAddress, 4096) }
    try #require(n == 4096)
  }
  return fd
}
