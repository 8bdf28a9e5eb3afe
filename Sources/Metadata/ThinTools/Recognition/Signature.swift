import ThinFormat

/// A signature: bytes at a certain offset.
struct Signature {
  let name: String
  private let offset: Int
  private let bytes: [UInt8]

  init(_ name: String, at offset: Int = 0, _ bytes: [UInt8]) {
    self.name = name
    self.offset = offset
    self.bytes = bytes
  }

  init(_ name: String, at offset: Int = 0, _ text: String) {
    self.init(name, at: offset, Array(text.utf8))
  }

  init(_ name: String, at offset: Int = 0, littleEndian value: UInt64) {
    self.init(name, at: offset, (0..<8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) })
  }

  func matches(_ start: [UInt8]) -> Bool { start.dropFirst(offset).starts(with: bytes) }
}

let superblockMagic = Signature("", at: 32, littleEndian: SuperblockRecord.magicValue)

let packed = Signature("packed metadata", littleEndian: 0xa537_a0aa_6309_ef77)

/// Compression formats, each with its program, which unpacks with `-dc`.
let compressions = [
  Signature("gzip", [0x1f, 0x8b]), Signature("xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
  Signature("zstd", [0x28, 0xb5, 0x2f, 0xfd]), Signature("bzip2", "BZh"),
  Signature("lz4", [0x04, 0x22, 0x4d, 0x18]), Signature("lzop", [0x89, 0x4c, 0x5a, 0x4f, 0]),
]

/// Signatures of disks and files. Partition tables come last, because boot sectors of file systems
/// have the same mark.
let signatures = [
  Signature("metadata of dm-cache", at: 32, littleEndian: 0o6_142_003),
  Signature("metadata of dm-era", at: 32, littleEndian: 0o17_660_203_573),
  Signature("an ext2, ext3 or ext4 file system", at: 1080, [0x53, 0xef]),
  Signature("an XFS file system", "XFSB"),
  Signature("a btrfs file system", at: 65_600, "_BHRfS_M"),
  Signature("an F2FS file system", at: 1024, [0x10, 0x20, 0xf5, 0xf2]),
  Signature("an NTFS file system", at: 3, "NTFS    "),
  Signature("a FAT file system", at: 54, "FAT1"), Signature("a FAT file system", at: 82, "FAT32"),
  Signature("a squashfs file system", "hsqs"),
  Signature("an image of a CD", at: 32_769, "CD001"),
  Signature("a LUKS volume", "LUKS"), Signature("a swap area", at: 4086, "SWAPSPACE2"),
  Signature("a physical volume of LVM", at: 512, "LABELONE"),
  Signature("a member of an md array", at: 4096, [0xfc, 0x4e, 0x2b, 0xa9]),
  Signature("a qcow2 image", [0x51, 0x46, 0x49, 0xfb]), Signature("a VMDK image", "KDMV"),
  Signature("a VHDX image", "vhdxfile"), Signature("a VHD image", "conectix"),
  Signature("a VDI image", at: 64, [0x7f, 0x10, 0xda, 0xbe]),
  Signature("a zip archive", [0x50, 0x4b, 3, 4]), Signature("a tar archive", at: 257, "ustar"),
  Signature("a disk with a partition table", at: 512, "EFI PART"),
  Signature("a disk with a partition table", at: 510, [0x55, 0xaa]),
]
