import BlockIO
import CDMThin
import Glibc
import PersistentData
import ThinFormat
import ThinMetadata
import ThinTools

/// The present content of a pool's two devices, in lines.
struct StateReport {
  let metadataPath: String
  let dataPath: String

  /// The dump of the metadata, the findings of a check, and the content of every device's mappings.
  func lines() -> [String] {
    do {
      let device = try FileDevice(path: metadataPath, access: .readOnly, exclusive: false)
      var lines = try Self.dump(device, .current)
      let view = try MetadataView(device, source: .current)
      if view.superblock.metadataSnapshot != 0 {
        lines.append("metadata snapshot:")
        lines += try Self.dump(device, .metadataSnapshot)
      }
      let report = try ThinCheck.run(device, options: CheckOptions(), progress: Progress())
      lines.append(
        "check: \(report.fatalCount) fatal, \(report.leakCount) leaks, "
          + "\(report.minorCount) minor\(report.needsCheck ? ", needs check" : "")")
      lines += report.findings.map { "check: \($0.message)" }
      return lines + (try contents(view))
    } catch {
      return ["state: \(error)"]
    }
  }

  private static func dump(_ device: FileDevice, _ source: MetadataView.Source) throws -> [String] {
    let descriptor = dmthin_memory_file("dump")
    defer { close(descriptor) }
    let sink = ByteSink(descriptor: descriptor, path: "memory")
    var options = DumpOptions()
    options.source = source
    try ThinDump.run(device, to: sink, options: options, progress: Progress())
    let size = Int(lseek(descriptor, 0, SEEK_END))
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
      count = max(0, pread(descriptor, buffer.baseAddress, size, 0))
    }
    return sharedRunsInOrder(
      String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init))
  }

  /// Shared runs are named after metadata blocks, and sorted by them, which depends on the times of
  /// commits. This renumbers them in the order of the devices that refer to them, and moves each to
  /// its first reference.
  private static func sharedRunsInOrder(_ lines: [String]) -> [String] {
    var definitions: [String: [String]] = [:]
    var rest: [String] = []
    var open: String?
    for line in lines {
      if let name = name(in: line, "<def name=") {
        open = name
        definitions[name] = []
      } else if line.contains("</def>") {
        open = nil
      } else if let name = open {
        definitions[name]?.append(line)
      } else {
        rest.append(line)
      }
    }
    var numbers: [String: Int] = [:]
    var result: [String] = []
    func tell(_ line: String) {
      guard let name = name(in: line, "<ref name=") else { return result.append(line) }
      if let number = numbers[name] { return result.append("    <ref \(number)/>") }
      numbers[name] = numbers.count
      result.append("    <ref \(numbers.count - 1), which is>")
      for line in definitions[name] ?? ["nothing"] { tell(line) }
      result.append("    </ref>")
    }
    for line in rest { tell(line) }
    let unused = definitions.keys.filter { numbers[$0] == nil }
    if !unused.isEmpty { result.append("\(unused.count) definitions that nothing refers to") }
    return result
  }

  private static func name(in line: String, _ tag: String) -> String? {
    guard line.contains(tag) else { return nil }
    return line.split(separator: "\"", omittingEmptySubsequences: false).dropFirst().first
      .map(String.init)
  }

  /// A digest of each device's mapped blocks.
  private func contents(_ view: MetadataView) throws -> [String] {
    let fd = open(dataPath, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { throw PlayerError.system(dataPath) }
    defer { close(fd) }
    let blockBytes = Int(view.superblock.dataBlockSectors) * 512
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: blockBytes, alignment: 4096)
    defer { buffer.deallocate() }
    return try view.devices().map { device in
      var digest = ScriptDigest()
      var mappings: [(UInt64, UInt64)] = []
      try TreeReader(view.reader, .mappings).forEach(root: device.root.rawValue) { node, i in
        mappings.append((node.key(i), Mapping(rawValue: node.value64(i)).dataBlock))
      }
      for (block, dataBlock) in mappings {
        let count = pread(fd, buffer.baseAddress, blockBytes, Int(dataBlock) * blockBytes)
        digest.add(block)
        digest.add(UInt64(max(0, count)))
        digest.add(UnsafeRawBufferPointer(buffer))
      }
      return "device \(device.id): \(mappings.count) blocks, \(digest.text)"
    }
  }

  /// Digests of the blocks of the whole data device, unused space included.
  /// - Parameter mask: changes the bytes at an offset that do not count.
  func dataDigests(
    blockBytes: Int, mask: (UnsafeMutableRawBufferPointer, Int) -> Void = { _, _ in }
  ) -> [String] {
    let fd = open(dataPath, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return ["none"] }
    defer { close(fd) }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: blockBytes, alignment: 4096)
    defer { buffer.deallocate() }
    var lines: [String] = []
    while true {
      let count = read(fd, buffer.baseAddress, buffer.count)
      guard count > 0 else { return lines }
      let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count])
      mask(bytes, lines.count * blockBytes)
      var digest = ScriptDigest()
      digest.add(UnsafeRawBufferPointer(bytes))
      lines.append("data block \(lines.count): \(digest.text)")
    }
  }
}
