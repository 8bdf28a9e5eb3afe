/// What a file or device is that was given for a pool's metadata, or for a dump of it.
public enum Recognition: Equatable, Sendable {
  /// Metadata: its first block is a sound superblock.
  case metadata
  /// Metadata without a sound superblock.
  /// - soundBlocks: sound blocks in their places among those that were looked at.
  /// - start: what stands at the beginning, if that is known.
  case damagedMetadata(soundBlocks: Int, start: String?)
  /// A superblock of metadata begins `byteOffset` bytes from the start.
  case metadataBehind(byteOffset: UInt64)
  /// A dump in XML.
  case xml
  /// A dump for people to read.
  case textDump
  /// Metadata packed by `thin_metadata_pack`.
  case packed
  /// What a program compressed; `unpack` is the command that writes it to its output.
  case compressed(name: String, unpack: String)
  /// A physical volume of LVM.
  case physicalVolume(LVMLabel)
  /// Something else that is known, like `an XFS file system`.
  case other(String)
  /// Nothing but zeros, as far as it was looked at.
  case zeros
  /// Nothing that is known.
  case unknown

  /// What it is, and which mistake that suggests: one or more sentences. Nil where it is metadata.
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
      return "This looks like XML: a dump, not metadata. thin_restore makes metadata of it."
    case .textDump:
      return
        "This is a dump in the format human_readable, of which nothing can be restored; thin_dump "
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
        "The first block is all zeroes, and so is all that was looked at: this is unformatted, or "
        + "it was wiped. \(Self.mayBeData)"
    case .unknown:
      return "Nothing in its beginning is thin-pool metadata. \(Self.mayBeData)"
    }
  }

  private static var mayBeData: String {
    "It may be the data device of a pool, which lvm2 calls POOL_tdata; the metadata device is the one "
      + "called POOL_tmeta."
  }

  /// Commands to go on with, for what is at `path`.
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

  /// The explanation and the commands, to print after an error; nil where it is metadata.
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
