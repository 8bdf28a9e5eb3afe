/// The kind of a file or device that was given as a pool's metadata, or as a dump of it.
public enum Recognition: Equatable, Sendable {
  /// Metadata: its first block is a sound superblock.
  case metadata
  /// Metadata without a sound superblock.
  /// - soundBlocks: the number of sound blocks in their places among those examined.
  /// - start: the content at the beginning, if it is recognised.
  case damagedMetadata(soundBlocks: Int, start: String?)
  /// A superblock of metadata begins `byteOffset` bytes from the start.
  case metadataBehind(byteOffset: UInt64)
  /// A dump in XML.
  case xml
  /// A dump in the format human_readable.
  case textDump
  /// Metadata packed by `thin_metadata_pack`.
  case packed
  /// A compressed file; `unpack` is the command that writes its content to the output.
  case compressed(name: String, unpack: String)
  /// A physical volume of LVM.
  case physicalVolume(LVMLabel)
  /// Another recognised kind, like `an XFS file system`.
  case other(String)
  /// Nothing but zeros in the examined part.
  case zeros
  /// Not recognised.
  case unknown

  /// What it is, and the mistake that this suggests: one or more sentences. Nil for metadata.
  public var explanation: String? {
    switch self {
    case .metadata: return nil
    case .damagedMetadata(let soundBlocks, let start):
      let place =
        start.map { "The first block is \($0)" } ?? "The first block is no sound superblock"
      return soundBlocks > 0
        ? "\(place), but \(soundBlocks) of the blocks behind it are sound metadata: this was thin-pool "
          + "metadata once, and its superblock was overwritten."
        : "\(place), but has the magic number of one: this was thin-pool metadata once."
    case .metadataBehind(let offset):
      return
        "A superblock of thin-pool metadata is at byte \(offset): this is more than the metadata "
        + "device, the image of a whole disk for instance."
    case .xml:
      return "This looks like XML: a dump, not metadata. thin_restore makes metadata from it."
    case .textDump:
      return
        "This is a dump in the format human_readable, which cannot be restored; thin_dump "
        + "writes XML without -f."
    case .packed:
      return
        "This looks like packed metadata (see thin_metadata_unpack), not like the metadata device "
        + "of a thin pool."
    case .compressed(let name, _):
      return "This looks like a file compressed with \(name): unpack it first."
    case .physicalVolume(let label):
      return "This looks like \(label.description). \(Self.mayBeData)"
    case .other(let name):
      return
        "This looks like \(name), not like the metadata device of a thin pool. \(Self.mayBeData)"
    case .zeros:
      return
        "The first block is all zeroes, and so is all that was examined: this is unformatted, or "
        + "it was wiped. \(Self.mayBeData)"
    case .unknown:
      return "Nothing in its beginning is thin-pool metadata. \(Self.mayBeData)"
    }
  }

  private static var mayBeData: String {
    "It may be the data device of a pool, which lvm2 calls POOL_tdata; the metadata device is the one "
      + "called POOL_tmeta."
  }

  /// Commands to run next, for the file or device at `path`.
  public func next(_ path: String) -> [String] {
    let quoted = shellQuoted(path)
    let salvage = "thin_dump --repair -o saved.xml \(quoted)"
    switch self {
    case .metadata: return []
    case .damagedMetadata: return [salvage]
    case .metadataBehind(let offset):
      return [
        "losetup --find --show --read-only --offset \(offset) \(quoted)",
        "dd if=\(quoted) of=metadata bs=1M iflag=skip_bytes skip=\(offset)",
      ]
    case .xml: return ["thin_restore -i \(quoted) -o METADATA"]
    case .textDump: return ["thin_dump -o pool.xml METADATA"]
    case .packed: return ["thin_metadata_unpack -i \(quoted) -o METADATA"]
    case .compressed(_, let unpack): return ["\(unpack) \(quoted) > unpacked"]
    case .physicalVolume(let label):
      return label.metadataVolumes.isEmpty
        ? ["lvs -a"] : label.metadataVolumes.map { "lvchange -ay \(label.volumeGroup)/\($0)" }
    case .other: return ["dmthin pool doctor METADATA --data \(quoted)"]
    case .zeros, .unknown: return ["dmthin pool doctor METADATA --data \(quoted)", salvage]
    }
  }

  /// The explanation and the commands, to print after an error; nil for metadata.
  public func advice(_ path: String) -> String? {
    explanation.map { ([$0] + next(path).map { "  next: \($0)" }).joined(separator: "\n") }
  }
}

/// `text` as one word of a command line for the shell.
package func shellQuoted(_ text: String) -> String {
  let plain = text.utf8.allSatisfy { byte in
    (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte) || (0x61...0x7a).contains(byte)
      || "_-./:+=@%,".utf8.contains(byte)
  }
  if plain && !text.isEmpty { return text }
  return "'"
    + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''")
    + "'"
}
