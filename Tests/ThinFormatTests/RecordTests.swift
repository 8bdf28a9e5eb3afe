import BlockIO
import Simulation
import TestSupport
import Testing

@testable import ThinFormat

@Suite struct RecordTests {
  private static let records: [(name: String, byteCount: Int, fields: [FieldPlace])] = [
    ("header", BlockHeader.byteCount, BlockHeader.fields),
    ("node", BtreeNodeRecord.byteCount, BtreeNodeRecord.fields),
    ("superblock", SuperblockRecord.byteCount, SuperblockRecord.fields),
    ("space map root", SpaceMapRoot.byteCount, SpaceMapRoot.fields),
    ("index entry", IndexEntry.byteCount, IndexEntry.fields),
    ("details", DeviceDetails.byteCount, DeviceDetails.fields),
  ]

  @Test("fields of every record ascend, do not overlap, and end inside it")
  func disjoint() {
    for record in Self.records {
      var end = 0
      for field in record.fields {
        #expect(field.offset >= end, "\(record.name).\(field.name)")
        end = field.offset + field.byteCount
      }
      #expect(end <= record.byteCount, "\(record.name)")
      #expect(Set(record.fields.map(\.name)).count == record.fields.count)
    }
  }

  @Test("fields are contiguous if the format has no unused bytes")
  func gapless() {
    for record in Self.records
    where ["header", "space map root", "index entry", "details"]
      .contains(record.name)
    {
      #expect(record.fields.reduce(0) { $0 + $1.byteCount } == record.byteCount, "\(record.name)")
    }
    // The superblock's fields and its two space map areas tile all that carries meaning.
    let areas = [SuperblockRecord.dataSpaceMapOffset, SuperblockRecord.metadataSpaceMapOffset]
    var parts = SuperblockRecord.fields.map { ($0.offset, $0.byteCount) }
    parts += areas.map { ($0, SpaceMapRoot.areaBytes) } + [(BlockHeader.checksum.offset, 4)]
    var end = 0
    for (offset, count) in parts.sorted(by: { $0.0 < $1.0 }) {
      #expect(offset == end)
      end = offset + count
    }
    #expect(end == SuperblockRecord.usedBytes && end == 364)
  }

  @Test("places and sizes of fields are the kernel's")
  func places() {
    func places(_ fields: [FieldPlace]) -> [Int] { fields.flatMap { [$0.offset, $0.byteCount] } }
    #expect(places(BlockHeader.fields) == [0, 4, 4, 4, 8, 8])
    #expect(places(BtreeNodeRecord.fields) == [4, 4, 16, 4, 20, 4, 24, 4])
    #expect(places(SpaceMapRoot.fields) == [0, 8, 8, 8, 16, 8, 24, 8])
    #expect(places(IndexEntry.fields) == [0, 8, 8, 4, 12, 4])
    #expect(places(DeviceDetails.fields) == [0, 8, 8, 8, 16, 4, 20, 4])
    #expect(
      places(SuperblockRecord.fields) == [
        4, 4, 8, 8, 16, 8, 24, 8, 32, 8, 40, 4, 44, 4, 48, 8, 56, 8, 320, 8, 328, 8, 336, 4, 340, 4,
        344, 8, 352, 4, 356, 4, 360, 4,
      ])
    #expect(SuperblockRecord.dataSpaceMapOffset == 64)
    #expect(SuperblockRecord.metadataSpaceMapOffset == 192)
  }

  @Test("a superblock keeps every byte when decoded and encoded, uuid and reserved ones included")
  func superblockRoundTrip() throws {
    var random = SplitMix64(seed: seed())
    for _ in 0..<200 {
      let original = block(randomBytes(Limits.blockBytes, &random))
      // Two things are not carried along: the magic, which is always the same, and 96 bytes of
      // each space map area, into which the kernel lets memory leak.
      original.bytes.set(SuperblockRecord.magic, to: SuperblockRecord.magicValue)
      for area in [SuperblockRecord.dataSpaceMapOffset, SuperblockRecord.metadataSpaceMapOffset] {
        for i in (area + SpaceMapRoot.byteCount)..<(area + SpaceMapRoot.areaBytes) {
          original.bytes[i] = 0
        }
      }
      let copy = block(bytes(original))
      let superblock = Superblock(decoding: original.span)
      superblock.encode(into: copy.bytes)
      #expect(bytes(copy) == bytes(original))
      // Into an empty block goes all that is known, so decoding finds the same again.
      let fresh = AlignedBuffer(count: Limits.blockBytes)
      superblock.encode(into: fresh.bytes)
      #expect(Superblock(decoding: fresh.span) == superblock)
      #expect(bytes(fresh)[16..<32] == bytes(original)[16..<32], "uuid")
      #expect(bytes(fresh)[64..<364] == bytes(original)[64..<364])
    }
  }

  @Test("every field of a superblock matters to equality")
  func superblockEquality() {
    let zero = AlignedBuffer(count: Limits.blockBytes)
    let plain = Superblock(decoding: zero.span)
    var offsets = SuperblockRecord.fields.filter { !["magic", "blockNumber"].contains($0.name) }
      .map(\.offset)
    offsets += SpaceMapRoot.fields.flatMap { [64 + $0.offset, 192 + $0.offset] }
    for offset in offsets {
      let changed = AlignedBuffer(count: Limits.blockBytes)
      changed.bytes[offset] = 1
      #expect(Superblock(decoding: changed.span) != plain, "byte \(offset)")
    }
  }

  @Test("small records keep every byte when decoded and encoded at any place")
  func smallRoundTrips() {
    var random = SplitMix64(seed: seed())
    for _ in 0..<500 {
      let original = block(randomBytes(Limits.blockBytes, &random))
      let at = Int.random(in: 0...(Limits.blockBytes - 32), using: &random)
      let copy = block(bytes(original))
      IndexEntry(decoding: original.span, at: at).encode(into: copy.bytes, at: at)
      #expect(bytes(copy) == bytes(original))
      DeviceDetails(decoding: original.span, at: at).encode(into: copy.bytes, at: at)
      #expect(bytes(copy) == bytes(original))
      let word = UInt64.random(in: 0 ... .max, using: &random)
      let mapping = Mapping(rawValue: word)
      #expect(Mapping(dataBlock: mapping.dataBlock, time: mapping.time).rawValue == word)
    }
  }

  @Test("a superblock is refused for its magic, version, features and block sizes")
  func superblockRefusals() {
    let sound = AlignedBuffer(count: Limits.blockBytes)
    var superblock = Superblock()
    superblock.dataBlockSectors = 128
    superblock.encode(into: sound.bytes)
    func fault(at offset: Int, _ value: UInt32) -> FormatError? {
      let copy = block(bytes(sound))
      copy.bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt32.self)
      BlockHeader.seal(copy.bytes, number: 0, kind: .superblock)
      do throws(FormatError) {
        _ = try Superblock(validating: copy.span, number: 0)
        return nil
      } catch {
        return error
      }
    }
    #expect(fault(at: 44, 0) == nil)
    #expect(fault(at: 32, 1) == .magic(expected: 27_022_010, found: 1))
    for version: UInt32 in [1, 2] { #expect(fault(at: 40, version) == nil) }
    for version: UInt32 in [0, 3, .max] {
      #expect(fault(at: 40, version) == .field(.version, expected: 2, found: UInt64(version)))
    }
    #expect(fault(at: 360, 4) == .field(.incompatFlags, expected: 0, found: 4))
    for flags in [352, 356] { #expect(fault(at: flags, 1) == nil) }
    for sectors: UInt32 in [128, 256, 384, 2_097_152] { #expect(fault(at: 336, sectors) == nil) }
    for sectors: UInt32 in [0, 1, 127, 129, 2_097_153, 2_097_280, .max] {
      #expect(
        fault(at: 336, sectors) == .field(.dataBlockSize, expected: 128, found: UInt64(sectors)))
    }
    #expect(fault(at: 340, 16) == .field(.metadataBlockSize, expected: 8, found: 16))
  }
}
