import BlockIO
import TestSupport
import Testing
import ThinFormat
import ThinMetadata
import ThinTools

// example: a check, and a repair of what it finds into another file
func checkAndRepair(_ path: String, into output: String) throws -> [String] {
  let file = try FileDevice(path: path, access: .readOnly, exclusive: true)
  let report = try ThinCheck.run(file, options: CheckOptions(), progress: Progress())
  var lines = report.findings.map { "\($0.severity.rawValue): \($0.message)" }
  guard report.isDamaged else { return lines }
  let result = try ThinRepair.run(
    file, to: try FileDevice(path: output, access: .readWrite, exclusive: true),
    options: RepairOptions(), progress: Progress())
  for device in result.report.devices where !device.isWhole {
    for range in device.ranges {
      let end = range.end.map { "\($0)" } ?? "its end"
      lines.append(
        "device \(device.id): \(range.kind.rawValue) from block \(range.begin) to \(end)")
    }
  }
  return lines
}
// end

@Suite("Examples of the library ThinTools")
struct ThinToolsExample {
  @Test("metadata is checked, and repaired into another file")
  func example() throws {
    let folder = try ScratchFolder()
    let path = try folder.zeros("metadata", size: 1 << 20)
    try makePool(metadata: path)
    let output = try folder.zeros("output", size: 1 << 20)
    #expect(try checkAndRepair(path, into: output) == [])

    // The root of device 1 is the only node of mappings; its snapshot shares it.
    let root = try wipeMappings(path)
    let lines = try checkAndRepair(path, into: output)
    #expect(lines.contains { $0.hasPrefix("fatal: ") && $0.contains("block \(root)") }, "\(lines)")
    let saved = try FileDevice(path: output, access: .readOnly, exclusive: true)
    let report = try ThinCheck.run(saved, options: CheckOptions(), progress: Progress())
    #expect(report.isClean && report.deviceCount == 2, "\(report.findings)")
  }

  /// Overwrites the root of device 1 with zeros; returns its block.
  private func wipeMappings(_ path: String) throws -> MetadataBlock {
    let file = try FileDevice(path: path, access: .readWrite, exclusive: true)
    let root = try MetadataView(file, source: .current).devices()[0].root
    let zeros = AlignedBuffer(count: 4096)
    try file.write(UnsafeRawBufferPointer(zeros.bytes), at: root.rawValue * 4096)
    return root
  }
}
