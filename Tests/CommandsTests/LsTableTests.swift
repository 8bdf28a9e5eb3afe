import Testing
import ThinFormat
import ThinTools

@testable import Commands

@Suite struct LsTableTests {
  private let rows = [
    LsRow(deviceID: 1, mapped: 0, exclusive: 0, shared: 0, highest: nil),
    LsRow(
      deviceID: 2, mapped: 1, exclusive: 1, shared: 0, highest: 0, transaction: 3, createTime: 4,
      snapTime: 5),
  ]

  private func printed(_ rows: [LsRow], _ arguments: String...) throws -> String {
    guard case .run(let parsed) = try LsCommand.spec.parse(arguments + ["in"]) else { return "" }
    let captured = CapturedConsole()
    try LsCommand.printDevices(
      rows, dataBlockSectors: 128, request: LsRequest(parsed), console: captured.console)
    _ = captured.console.finish(0)
    return captured.output
  }

  @Test("columns are aligned right, with a space after each")
  func layout() throws {
    #expect(
      try printed(rows) == """
        DEV MAPPED CREATE_TIME SNAP_TIME\(" ")
          1     0b           0         0\(" ")
          2  64KiB           4         5\(" ")

        """)
    #expect(try printed(rows, "--no-headers", "-o", "DEV") == "1 \n2 \n")
    #expect(try printed([], "-o", "DEV,DEV") == "DEV DEV \n")
    #expect(try printed([], "--no-headers") == "")
  }

  @Test("HIGHEST fields show the last unit of the last block")
  func highest() throws {
    #expect(
      try printed(rows, "-o", "HIGHEST_BLOCK,HIGHEST_SECTOR,HIGHEST_BYTE,HIGHEST_MAPPED") == """
        HIGHEST_BLOCK HIGHEST_SECTOR HIGHEST_BYTE HIGHEST_MAPPED\(" ")
                    0            127        65535          64KiB\(" ")
                    0            127        65535          64KiB\(" ")

        """)
  }

  @Test("every field shows its own number")
  func fields() {
    let row = LsRow(
      deviceID: 1, mapped: 2, exclusive: 3, shared: 4, highest: 5, transaction: 6, createTime: 7,
      snapTime: 8)
    let expected: [LsField: UInt64] = [
      .device: 1, .transaction: 6, .createTime: 7, .snapTime: 8,
      .mappedBlocks: 2, .exclusiveBlocks: 3, .sharedBlocks: 4, .highestBlock: 5,
      .mappedSectors: 256, .exclusiveSectors: 384, .sharedSectors: 512, .highestSector: 767,
      .mappedBytes: 131_072, .exclusiveBytes: 196_608, .sharedBytes: 262_144,
      .highestByte: 393_215,
      .mapped: 131_072, .exclusive: 196_608, .shared: 262_144, .highestMapped: 393_215,
    ]
    for field in LsField.allCases {
      #expect(field.number(row, dataBlockSectors: 128) == expected[field], "\(field)")
    }
  }

  @Test("numbers from damaged metadata print as a dash, and do not trap")
  func hostile() throws {
    let row = LsRow(
      deviceID: ThinID(.max), mapped: .max, exclusive: .max, shared: 1 << 60,
      highest: VirtualBlock(.max),
      transaction: .max, createTime: .max, snapTime: .max)
    let table = LsTable(fields: [], hasHeaders: false, dataBlockSectors: .max)
    for field in LsField.allCases {
      let text = table.cell(field, row)
      #expect(text == "-" || UInt64(text) != nil, "\(field) \(text)")
    }
    #expect(table.cell(.highestByte, row) == "-" && table.cell(.mapped, row) == "-")
    let edge = LsRow(deviceID: 1, highest: VirtualBlock(1 << 48 - 1))
    let blocks = LsTable(fields: [], hasHeaders: false, dataBlockSectors: 128)
    #expect(blocks.cell(.highestByte, edge) == String(UInt64.max))
    #expect(LsField.highestBlock.number(edge, dataBlockSectors: 0) == (1 << 48) - 1)
    #expect(LsField.highestSector.number(edge, dataBlockSectors: 0) == nil)
  }

  @Test("JSON has the chosen fields, sizes in bytes, and null for missing values")
  func json() throws {
    #expect(
      try printed(rows, "--json", "-o", "DEV,MAPPED,HIGHEST_BLOCK")
        == #"{"data_block_sectors":128,"devices":[{"dev":1,"mapped":0,"highest_block":null},"#
        + #"{"dev":2,"mapped":65536,"highest_block":0}]}"# + "\n")
  }

  @Test("only exclusive and shared fields read every mapping of the pool")
  func sources() {
    let scanning = LsField.allCases.filter { $0.source == .allMappings }
    #expect(
      scanning.allSatisfy { $0.rawValue.contains("EXCLUSIVE") || $0.rawValue.contains("SHARED") })
    #expect(scanning.count == 8)
    #expect(LsField.standard.map(\.source) == [.details, .mappingCount, .details, .details])
  }
}
