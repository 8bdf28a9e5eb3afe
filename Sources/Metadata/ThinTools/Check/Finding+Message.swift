import ThinFormat
import ThinMetadata

extension Finding: CustomStringConvertible {
  /// The message.
  public var description: String { message }

  /// The place, what was expected, and what was found. Further lines list runs of blocks.
  public var message: String {
    let state = isInMetadataSnapshot ? " of the metadata snapshot" : ""
    return switch problem {
    case .tree(let fault): "\(fault)"
    case .superblockTime(let found, _):
      "superblock: expected a time of at most \(Limits.timeMax), found \(found); the kernel would "
        + "corrupt the next mapping"
    case .metadataSpaceMapSize(let found, let max, let isFormatLimit, _):
      "superblock: metadata space map of \(found) blocks: more than the "
        + (isFormatLimit ? "format allows, \(max)" : "metadata device has, \(max)")
    case .dataSpaceMapSize(let found, let max, _):
      "superblock: data space map of \(found) blocks, expected at most \(max), for which the metadata "
        + "device could hold bitmaps"
    case .metadataSnapshot(let error, _): "metadata snapshot: \(error)"
    case .deviceMismatch(let device, let inDetails):
      "\(MetadataError.deviceMismatch(id: device, inDetails: inDetails))\(state)"
    case .deviceID(let device):
      "thin device \(device)\(state): expected an id of at most \(ThinID.max)"
    case .deviceTime(let device, let isCreation, let found, let poolTime):
      // Harmless: the kernel takes more mappings for shared than really are.
      "thin device \(device)\(state): \(isCreation ? "creation" : "snapshot") time \(found), "
        + "expected at most the pool's time \(poolTime)"
    case .mappingsLost(let device, let range, let block):
      "thin device \(device)\(state): virtual blocks \(range.lowerBound).."
        + (range.upperBound.rawValue == .max ? "end" : "\(range.upperBound.rawValue - 1)")
        + " are affected by the damage at block \(block)"
    case .mappingCount(let device, let expected, let found):
      "thin device \(device)\(state) has unexpected number of mappings, expected \(expected), "
        + "actual \(found)"
    default: spaceMapMessage
    }
  }

  /// The message of a problem with a space map.
  private var spaceMapMessage: String {
    switch problem {
    case .countsNotCompared:
      "reference counts were not compared, because the trees are damaged"
    case .indexBeyondEnd(let block, let count):
      "metadata space map: index at block \(block), expected a block below \(count)"
    case .index(let problem, let block):
      "metadata space map: index at block \(block): \(problem)"
    case .bitmap(let map, let number, let problem, let block):
      "\(map.rawValue) space map: bitmap \(number) at block \(block): \(problem)"
    case .indexEntry(let map, let expected, let found):
      "\(map.rawValue) space map: expected an index entry for bitmap \(expected), found \(found)"
    case .indexEntryCount(let map, let expected, let blockCount, let found):
      "\(map.rawValue) space map: expected \(expected) index entries for \(blockCount) blocks, found "
        + "\(found)"
    case .beyondSpaceMap(let block, let count):
      "metadata block \(block) is in use, expected none from the end of the metadata space map on, "
        + "which has \(count) blocks"
    case .allocatedBlocks(let map, let superblock, let bitmaps):
      "\(map.rawValue) space map: superblock says \(superblock) blocks are allocated, the bitmaps have "
        + "\(bitmaps)"
    case .freeEntries(let map, let bitmap, let entry, let actual, _):
      "\(map.rawValue) space map: index entry of bitmap \(bitmap) says \(entry) entries are free, the "
        + "bitmap has \(actual)"
    case .firstFreeEntry(let map, let bitmap, let entry, let actual, _):
      "\(map.rawValue) space map: index entry of bitmap \(bitmap) says none is free before \(entry), "
        + "but \(actual) is"
    case .referenceCounts(let map, let areTooHigh, let differences):
      list(
        differences, "\(map.rawValue) blocks have \(areTooHigh ? "leaked" : "bad reference counts")"
      )
    case .strayOverflow(let map, let count):
      "\(map.rawValue) space map: \(count) entries of the overflow tree belong to blocks whose count is "
        + "below three"
    case .missingOverflow(let map, let count):
      "\(map.rawValue) space map: \(count) blocks with counts of three or more have no entry in the "
        + "overflow tree"
    default: ""
    }
  }

  private func list(_ differences: CountDifferences, _ what: String) -> String {
    var text = "\(differences.blockCount) \(what):"
    for run in differences.runs {
      let (first, end) = (run.blocks.lowerBound, run.blocks.upperBound)
      let blocks = end - first == 1 ? "\(first)" : "\(first)..\(end - 1)"
      text += "\n  \(blocks): expected count \(run.expected), found \(run.found)"
    }
    let listed = differences.runs.reduce(0) { $0 + UInt64($1.blocks.count) }
    if listed < differences.blockCount { text += "\n  and \(differences.blockCount - listed) more" }
    return text
  }
}
