import CDMThin
import Glibc

extension FileDevice {
  /// The least that can be read, in bytes: the logical sector of a block device; for a file 512, or 4096
  /// if its file system refuses less past the page cache.
  public var sectorBytes: Int {
    guard let descriptor else { return Self.sectorBytesMax }
    if isBlockDevice {
      var bytes: Int32 = 0
      let isKnown = unsafe dmthin_block_device_sector_bytes(descriptor, &bytes) == 0
      return isKnown && (512...Int32(Self.sectorBytesMax)).contains(bytes) ? Int(bytes) : 512
    }
    let buffer = AlignedBuffer(count: Self.sectorBytesMax)
    let isRefused =
      unsafe pread(descriptor, buffer.bytes.baseAddress, 512, 512) < 0 && errno == EINVAL
    return isRefused ? Self.sectorBytesMax : 512
  }

  private static var sectorBytesMax: Int { 4096 }
}
