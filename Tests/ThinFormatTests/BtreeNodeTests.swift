import BlockIO
import Simulation
import TestSupport
import Testing

@testable import ThinFormat

@Suite struct BtreeNodeTests {
  @Test("nodes have room for as many entries as in the kernel")
  func room() {
    let rows: [(kind: TreeKind, valueSize: Int, entriesMax: Int, values: Int, third: Int)] = [
      (.devices, 8, 252, 2048, 84), (.mappings, 8, 252, 2048, 84), (.details, 24, 126, 1040, 42),
      (.spaceMapIndex, 16, 168, 1376, 56), (.spaceMapOverflow, 4, 336, 2720, 112),
    ]
    for row in rows {
      #expect(row.kind.valueSize == row.valueSize)
      #expect(BtreeNodeRecord.entriesMax(valueSize: row.valueSize) == row.entriesMax)
      let leaf = node(count: 1, valueSize: row.valueSize)
      let view = try? BtreeNodeView(
        validating: leaf.span, number: 7, leafValueSize: row.valueSize)
      #expect(view?.valuesOffset == row.values)
      #expect(view?.entriesMin == row.third)
      #expect(32 + row.entriesMax * (8 + row.valueSize) <= Limits.blockBytes)
    }
  }

  @Test("keys out of order are found at every position", arguments: [4, 8, 16, 24])
  func keyOrder(_ valueSize: Int) {
    let count = BtreeNodeRecord.entriesMax(valueSize: valueSize)
    let leaf = node(count: count, valueSize: valueSize)
    #expect(fault(of: leaf, leafValueSize: valueSize) == nil)
    for i in 1..<count {
      let previous = UInt64(10 * i)
      for key in [previous, previous - 1, 0] {
        setKey(leaf, i, key)
        #expect(
          fault(of: leaf, leafValueSize: valueSize)
            == .keyOrder(entry: i, previous: previous, found: key))
      }
      setKey(leaf, i, previous + 10)
    }
    setKey(leaf, 0, .max)
    #expect(
      fault(of: leaf, leafValueSize: valueSize) == .keyOrder(entry: 1, previous: .max, found: 20))
  }

  @Test("keys compare as unsigned numbers, and unused slots are ignored")
  func keyRange() {
    let leaf = node(count: 3, valueSize: 8)
    setKey(leaf, 2, .max)
    setKey(leaf, 3, 0)
    #expect(fault(of: leaf, leafValueSize: 8) == nil)
    let empty = node(count: 0, valueSize: 8)
    setKey(empty, 0, 9)
    setKey(empty, 1, 9)
    #expect(fault(of: empty, leafValueSize: 8) == nil)
  }

  @Test("a node is refused for its number, flags, sizes and number of entries")
  func refusals() {
    func changed(_ offset: Int, _ value: UInt32, isLeaf: Bool = true) -> FormatError? {
      let leaf = node(count: 3, valueSize: isLeaf ? 24 : 8, isLeaf: isLeaf)
      leaf.bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
      BlockHeader.reseal(leaf.bytes, kind: .btreeNode)
      return fault(of: leaf, leafValueSize: 24)
    }
    #expect(changed(8, 9) == .blockNumber(expected: 7, found: 9))
    for flags: UInt32 in [0, 3, 4, .max] {
      #expect(changed(4, flags) == .field(.nodeFlags, expected: 2, found: UInt64(flags)))
    }
    #expect(changed(4, 1) == .field(.valueSize, expected: 8, found: 24))
    #expect(changed(24, 8) == .field(.valueSize, expected: 24, found: 8))
    #expect(changed(24, 24, isLeaf: false) == .field(.valueSize, expected: 8, found: 24))
    for room: UInt32 in [0, 123, 125, 127, 129, .max] {
      #expect(changed(20, room) == .field(.entriesMax, expected: 126, found: UInt64(room)))
    }
    for count: UInt32 in [127, .max] {
      #expect(changed(16, count) == .field(.entryCount, expected: 126, found: UInt64(count)))
    }
  }

  @Test("entries are read from their places")
  func entries() throws {
    let leaf = node(count: 252, valueSize: 8)
    for i in 0..<252 {
      leaf.bytes.storeBytes(
        of: (UInt64(i) << 32).littleEndian, toByteOffset: 2048 + 8 * i, as: UInt64.self)
    }
    BlockHeader.reseal(leaf.bytes, kind: .btreeNode)
    let view = try BtreeNodeView(validating: leaf.span, number: 7, leafValueSize: 8)
    #expect(view.isLeaf && view.entryCount == 252)
    for i in 0..<252 {
      #expect(view.key(i) == UInt64(10 * (i + 1)) && view.value64(i) == UInt64(i) << 32)
      #expect(view.valueOffset(i) == 2048 + 8 * i)
    }
  }
  @Test("a run of mappings ends where a key, or a data block that has to follow, does not follow")
  func mappingRuns() throws {
    // The key 8 with data block 301 is in a slot that is not used.
    let mappings: [(key: UInt64, data: UInt64)] = [
      (1, 100), (2, 101), (3, 200), (5, 201), (6, 202), (7, 300), (8, 301),
    ]
    let leaf = node(count: 6, valueSize: 8)
    for (i, mapping) in mappings.enumerated() {
      setKey(leaf, i, mapping.key)
      let value = Mapping(dataBlock: mapping.data, time: UInt32(i)).rawValue
      leaf.bytes.storeBytes(
        of: value.littleEndian, toByteOffset: 2048 + 8 * i, as: UInt64.self)
    }
    BlockHeader.reseal(leaf.bytes, kind: .btreeNode)
    let view = try BtreeNodeView(validating: leaf.span, number: 7, leafValueSize: 8)
    let ends = (0..<6).map { view.mappingRunEnd(from: $0, followsData: false) }
    #expect(ends == [3, 3, 3, 6, 6, 6])
    let dataEnds = (0..<6).map { view.mappingRunEnd(from: $0, followsData: true) }
    #expect(dataEnds == [2, 2, 3, 5, 5, 6])
  }
}
