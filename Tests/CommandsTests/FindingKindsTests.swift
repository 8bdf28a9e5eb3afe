import BlockIO
import PersistentData
import TestSupport
import Testing
import ThinFormat
import ThinMetadata

@testable import Commands
@testable import ThinTools

@Suite("Kinds of findings in JSON")
struct FindingKindsTests {
  /// A finding of each kind, and its members.
  private static let findings: [(Finding.Problem, String)] = trees + devices + spaceMaps

  private static func tree(_ problem: TreeFault.Problem) -> Finding.Problem {
    .tree(TreeFault(.mappings, block: 7, parent: 5, problem))
  }

  private static let place = #""tree":"mappings","block":7,"parent":5"#

  private static let trees: [(Finding.Problem, String)] = [
    (
      tree(.unusable(.io(BlockIOError(.read, path: "meta", offset: 28672, code: 5)))),
      #""kind":"system_error",\#(place),"errno":5"#
    ),
    (
      tree(.unusable(.beyondEnd(blockCount: 6))),
      #""kind":"beyond_end",\#(place),"expected":5,"found":7"#
    ),
    (
      tree(.unusable(.format(.checksum(.btreeNode, expected: 1, found: 2)))),
      #""kind":"checksum",\#(place),"expected":1,"found":2"#
    ),
    (
      tree(.unusable(.format(.wrongKind(expected: .btreeNode, found: .bitmap)))),
      #""kind":"block_kind",\#(place),"expected":"\#(BlockKind.btreeNode)","found":"\#(BlockKind.bitmap)""#
    ),
    (
      tree(.unusable(.format(.blockNumber(expected: 7, found: 8)))),
      #""kind":"block_number",\#(place),"expected":7,"found":8"#
    ),
    (
      tree(.unusable(.format(.keyOrder(entry: 3, previous: 9, found: 8)))),
      #""kind":"key_order",\#(place),"entry":3,"expected":10,"found":8"#
    ),
    (
      tree(.pointsBeyondEnd(entry: 1, child: 900, blockCount: 800)),
      #""kind":"points_beyond_end",\#(place),"entry":1,"expected":799,"found":900"#
    ),
    (tree(.crossLinked), #""kind":"cross_linked",\#(place)"#),
    (tree(.cycle), #""kind":"cycle",\#(place)"#),
    (tree(.tooDeep), #""kind":"too_deep",\#(place),"expected":\#(Limits.treeLevelsMax)"#),
    (
      tree(.emptyInternalNode),
      #""kind":"empty_internal_node",\#(place),"expected":1,"found":0"#
    ),
    (
      tree(.keyBelowSeparator(expected: 4, found: 3)),
      #""kind":"key_below_separator",\#(place),"expected":4,"found":3"#
    ),
    (
      tree(.keyNotBelowNextSeparator(limit: 4, found: 4)),
      #""kind":"key_not_below_next_separator",\#(place),"expected":3,"found":4"#
    ),
    (
      tree(.unevenHeight(expected: 2, found: 1)),
      #""kind":"uneven_height",\#(place),"expected":2,"found":1"#
    ),
    (
      tree(.underfull(expected: 84, found: 3)),
      #""kind":"underfull",\#(place),"expected":84,"found":3"#
    ),
    (
      tree(.dataBlockBeyondEnd(virtualBlock: 6, dataBlock: 9, blockCount: 8)),
      #""kind":"data_block_beyond_end",\#(place),"expected":7,"found":9,"#
        + #""ranges":[{"begin":6,"length":1}]"#
    ),
    (
      tree(.mappingFromFuture(virtualBlock: 6, time: 9, poolTime: 8)),
      #""kind":"mapping_from_future",\#(place),"expected":8,"found":9,"#
        + #""ranges":[{"begin":6,"length":1}]"#
    ),
  ]

  private static let devices: [(Finding.Problem, String)] = [
    (
      .superblockTime(found: 1 << 24, block: 0),
      #""kind":"superblock_time","block":0,"expected":\#(Limits.timeMax),"found":16777216"#
    ),
    (
      .metadataSnapshot(.superblock(block: 9, .format(.magic(expected: 1, found: 2))), block: 9),
      #""kind":"magic","block":9,"expected":1,"found":2"#
    ),
    (
      .metadataSnapshot(
        .superblock(block: 9, .format(.field(.version, expected: 2, found: 3))), block: 9),
      #""kind":"field_version","block":9,"expected":2,"found":3"#
    ),
    (.deviceMismatch(device: 3, inDetails: true), #""kind":"no_mapping_tree","device":3"#),
    (.deviceMismatch(device: 3, inDetails: false), #""kind":"no_device_details","device":3"#),
    (
      .deviceID(device: 16_777_216),
      #""kind":"device_id","expected":16777215,"found":16777216,"device":16777216"#
    ),
    (
      .deviceTime(device: 3, isCreation: true, found: 8, poolTime: 7),
      #""kind":"device_creation_time","expected":7,"found":8,"device":3"#
    ),
    (
      .deviceTime(device: 3, isCreation: false, found: 8, poolTime: 7),
      #""kind":"device_snapshot_time","expected":7,"found":8,"device":3"#
    ),
    (
      .mappingsLost(device: 3, 4..<10, block: 7),
      #""kind":"mappings_lost","block":7,"device":3,"ranges":[{"begin":4,"length":6}]"#
    ),
    (
      .mappingsLost(device: 3, 4..<VirtualBlock(.max), block: 7),
      #""kind":"mappings_lost","block":7,"device":3,"ranges":[{"begin":4,"length":null}]"#
    ),
    (
      .mappingCount(device: 3, expected: 5, found: 6),
      #""kind":"mapping_count","expected":5,"found":6,"device":3"#
    ),
  ]

  private static func differences(_ counts: [(UInt64, UInt32, UInt32)]) -> Finding.CountDifferences
  {
    var all = Finding.CountDifferences()
    for (block, expected, found) in counts { all.add(block, onDisk: found, expected: expected) }
    return all
  }

  private static let spaceMaps: [(Finding.Problem, String)] = [
    (.countsNotCompared, #""kind":"counts_not_compared""#),
    (
      .metadataSpaceMapSize(found: 9, max: 8, isFormatLimit: false, block: 0),
      #""kind":"space_map_size","space_map":"metadata","block":0,"expected":8,"found":9"#
    ),
    (
      .dataSpaceMapSize(found: 9, max: 8, block: 0),
      #""kind":"space_map_size","space_map":"data","block":0,"expected":8,"found":9"#
    ),
    (
      .indexBeyondEnd(block: 9, blockCount: 8),
      #""kind":"beyond_end","space_map":"metadata","block":9,"expected":7,"found":9"#
    ),
    (
      .index(.format(.checksum(.index, expected: 1, found: 2)), block: 4),
      #""kind":"checksum","space_map":"metadata","block":4,"expected":1,"found":2"#
    ),
    (
      .bitmap(.data, number: 3, .format(.checksum(.bitmap, expected: 1, found: 2)), block: 4),
      #""kind":"checksum","space_map":"data","block":4,"expected":1,"found":2"#
    ),
    (
      .indexEntry(.data, expected: 1, found: 2),
      #""kind":"index_entry","space_map":"data","expected":1,"found":2"#
    ),
    (
      .indexEntryCount(.data, expected: 1, blockCount: 16, found: 2),
      #""kind":"index_entry_count","space_map":"data","expected":1,"found":2"#
    ),
    (
      .beyondSpaceMap(block: 9, blockCount: 8),
      #""kind":"beyond_space_map","space_map":"metadata","block":9,"expected":7,"found":9"#
    ),
    (
      .allocatedBlocks(.data, superblock: 2, bitmaps: 1),
      #""kind":"allocated_blocks","space_map":"data","block":0,"expected":1,"found":2"#
    ),
    (
      .freeEntries(.metadata, bitmap: 3, entry: 2, actual: 1, block: 4),
      #""kind":"free_entries","space_map":"metadata","block":4,"expected":1,"found":2"#
    ),
    (
      .firstFreeEntry(.metadata, bitmap: 3, entry: 2, actual: 1, block: 4),
      #""kind":"first_free_entry","space_map":"metadata","block":4,"expected":1,"found":2"#
    ),
    (
      .referenceCounts(.data, areTooHigh: true, differences([(5, 0, 1), (6, 0, 1)])),
      #""kind":"leaked_blocks","space_map":"data","expected":0,"found":1,"#
        + #""ranges":[{"begin":5,"length":2}]"#
    ),
    (
      .referenceCounts(.data, areTooHigh: false, differences([(5, 2, 1), (9, 3, 1)])),
      #""kind":"reference_counts","space_map":"data","found":1,"#
        + #""ranges":[{"begin":5,"length":1},{"begin":9,"length":1}]"#
    ),
    (
      .strayOverflow(.data, count: 2),
      #""kind":"stray_overflow_entries","space_map":"data","expected":0,"found":2"#
    ),
    (
      .missingOverflow(.data, count: 2),
      #""kind":"missing_overflow_entries","space_map":"data","expected":0,"found":2"#
    ),
  ]

  private func json(_ fields: FaultFields) throws -> String {
    let folder = try ScratchFolder()
    let output = try TextOutput(path: folder.file("json"))
    var json = JSONWriter(output.sink)
    try json.beginObject()
    try json.members(of: fields)
    try json.endObject()
    try output.commit()
    return String(decoding: try contents(of: folder.file("json")), as: UTF8.self)
  }

  @Test("each has its members, and no others", arguments: findings.indices)
  func members(_ index: Int) throws {
    let (problem, expected) = Self.findings[index]
    #expect(try json(Finding(problem).fields) == "{\(expected)}")
  }

  /// The number of a problem's case; a new case has to be added here, and to `findings`.
  private func number(_ problem: Finding.Problem) -> Int {
    switch problem {
    case .tree: 0
    case .superblockTime: 1
    case .metadataSpaceMapSize: 2
    case .dataSpaceMapSize: 3
    case .metadataSnapshot: 4
    case .deviceMismatch: 5
    case .deviceID: 6
    case .deviceTime: 7
    case .mappingsLost: 8
    case .mappingCount: 9
    case .countsNotCompared: 10
    case .indexBeyondEnd: 11
    case .index: 12
    case .bitmap: 13
    case .indexEntry: 14
    case .indexEntryCount: 15
    case .beyondSpaceMap: 16
    case .allocatedBlocks: 17
    case .freeEntries: 18
    case .firstFreeEntry: 19
    case .referenceCounts: 20
    case .strayOverflow: 21
    case .missingOverflow: 22
    }
  }

  @Test("no kind is left out, and all are in the page about JSON")
  func complete() throws {
    #expect(Set(Self.findings.map { number($0.0) }) == Set(0...22))
    let page = try contents(of: "\(Repository.root)/Documentation/json.md")
    let text = String(decoding: page, as: UTF8.self)
    for (problem, _) in Self.findings {
      let kind = Finding(problem).fields.kind
      let name = kind.hasPrefix("field_") ? "field_..." : kind
      #expect(text.contains("`\(name)`"), "\(kind)")
    }
  }
}
