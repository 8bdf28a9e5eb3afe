import BlockIO
import DeviceMapper
import ThinFormat
import ThinMetadata
public import ThinTools

/// The devices of a pool at rest: diagnoses them, and changes the metadata.
public struct PoolAtRest {
  /// Metadata device or file.
  public let path: String
  /// Data device or file, if it is known.
  public var data: String?
  /// The expected transaction id; nil asks lvm2 for its pools.
  public var expected: UInt64?
  /// Whether to read every mapping.
  public var checksAll = false

  /// A pool with its metadata in a device or file.
  public init(_ path: String) { self.path = path }

  /// The problems found, the worst first.
  public func diagnose(progress: Progress) throws(ToolError) -> [Diagnosis] {
    let device = try opened(path, exclusive: true)
    guard device.byteCount >= UInt64(Limits.blockBytes) else {
      return [notMetadata("it is too small for a superblock")]
    }
    let superblock: Superblock
    do throws(MetadataError) {
      superblock = try MetadataView(device, source: .current).superblock
    } catch {
      return [notMetadata("\(error)", FaultFields(error))]
    }
    var findings = superblockFindings(superblock, device)
    findings += try dataFindings(superblock)
    var options = CheckOptions()
    options.skipMappings = !checksAll
    let report = try ThinCheck.run(device, options: options, progress: progress)
    findings += damage(report)
    if let newer = report.newerGeneration, let diagnosis = stale(newer) {
      findings.append(diagnosis)
    }
    if !checksAll && !report.isDamaged {
      findings.append(
        Diagnosis(
          .note, "not-all-checked", "mappings and reference counts were not checked",
          next: ["thin_check \(quoted)"]))
    }
    return findings
  }

  private func opened(_ path: String, exclusive: Bool) throws(ToolError) -> FileDevice {
    do throws(BlockIOError) {
      return try FileDevice(path: path, access: .readOnly, exclusive: exclusive)
    } catch {
      throw ToolError(error)
    }
  }

  private var quoted: String { shellQuoted(path) }

  /// The device has no superblock: says what it may be instead.
  private func notMetadata(_ fault: String, _ fields: FaultFields? = nil) -> Diagnosis {
    if let data, Self.isMetadata(data) {
      return Diagnosis(
        .problem, "swapped",
        "\(path) holds no metadata, but \(data) does: the two devices are swapped",
        next: ["dmthin pool doctor \(shellQuoted(data)) --data \(quoted)"], fault: fields)
    }
    guard let found = Recognizer.recognize(path), let explanation = found.explanation else {
      return Diagnosis(
        .problem, "no-superblock", "\(path): \(fault)",
        next: ["thin_dump --repair -o saved.xml \(quoted)"], fault: fields)
    }
    let code =
      if case .damagedMetadata = found { "no-superblock" } else { "no-metadata" }
    return Diagnosis(
      .problem, code, "\(path): \(fault). \(explanation)", next: found.next(path),
      fault: fields)
  }

  private static func isMetadata(_ path: String) -> Bool {
    guard let device = try? FileDevice(path: path, access: .readOnly, exclusive: false) else {
      return false
    }
    return (try? MetadataView(device, source: .current)) != nil
  }

  private func superblockFindings(_ superblock: Superblock, _ device: FileDevice) -> [Diagnosis] {
    var findings: [Diagnosis] = []
    let present = device.byteCount / UInt64(Limits.blockBytes)
    if superblock.metadataSpaceMap.blockCount > present {
      findings.append(
        Diagnosis(
          .problem, "metadata-cut",
          "the metadata has \(superblock.metadataSpaceMap.blockCount) blocks, the device only "
            + "\(present): it is another device, an incomplete copy, or has become smaller",
          fault: .numbers("metadata_cut", superblock.metadataSpaceMap.blockCount, found: present)))
    }
    if superblock.needsCheck {
      findings.append(
        Diagnosis(
          .problem, "needs-check",
          "an operation of the kernel failed, and the pool needs a check before it is writable",
          next: ["thin_check --auto-repair \(quoted)"]))
    }
    let lvm = expected == nil ? LVMRecords.transactionID(ofPath: path) : nil
    if let id = expected ?? lvm, id != superblock.transactionID {
      findings.append(
        .transactionID(
          expected: id, by: expected == nil ? "lvm2" : "--expect-transaction-id",
          found: superblock.transactionID, pool: quoted))
    }
    if superblock.metadataSnapshot != 0 {
      findings.append(
        Diagnosis(
          .warning, "metadata-snapshot-leaked",
          "a metadata snapshot is held at block \(superblock.metadataSnapshot) of a pool that is not "
            + "active", next: ["dmthin pool release-metadata-snap \(quoted)"],
          fault: .block("metadata_snapshot", MetadataBlock(superblock.metadataSnapshot))))
    }
    return findings
  }

  private func dataFindings(_ superblock: Superblock) throws(ToolError) -> [Diagnosis] {
    guard let data else { return [] }
    let device = try opened(data, exclusive: false)
    let sectors = device.byteCount / UInt64(Limits.sectorBytes)
    let (present, recorded) = (
      sectors / UInt64(superblock.dataBlockSectors), superblock.dataSpaceMap.blockCount
    )
    if present < recorded {
      return [
        Diagnosis(
          .problem, "data-too-small",
          "\(data) has \(present) data blocks, the pool has \(recorded): it is another pool's, or has "
            + "become smaller", fault: .numbers("data_too_small", recorded, found: present))
      ]
    }
    if Self.isMetadata(data) {
      return [
        Diagnosis(
          .warning, "data-is-metadata",
          "\(data) begins with the metadata of a pool: is it the data device?")
      ]
    }
    return present == recorded
      ? []
      : [
        Diagnosis(
          .note, "data-grown",
          "\(data) has \(present) data blocks, the pool has \(recorded); activation extends the pool",
          fault: .numbers("data_grown", recorded, found: present))
      ]
  }

  private func stale(_ newer: NewerGeneration) -> Diagnosis? {
    let save = "thin_dump --repair --generation \(newer.block) -o \(newer.block).xml \(quoted)"
    return switch newer.age {
    case .newest, .newer:
      Diagnosis(
        .warning, "newer-generation", "\(newer.sentence) Activation would overwrite it.",
        next: ["thin_dump --repair -o newer.xml \(quoted)", "thin_ls \(quoted)"],
        fault: .block("newer_generation", newer.block))
    case .uncertain:
      Diagnosis(
        .note, "newer-generation-possible", newer.sentence, next: [save, "thin_ls \(quoted)"],
        fault: .block("newer_generation", newer.block))
    case .unlikely: nil
    case .interrupted:
      Diagnosis(
        .note, "interrupted-transaction", newer.sentence,
        fault: .block("newer_generation", newer.block))
    }
  }

  private func damage(_ report: CheckReport) -> [Diagnosis] {
    guard report.isDamaged, let first = report.findings.first else { return [] }
    return [
      Diagnosis(
        .problem, "damaged", first.message,
        next: ["thin_check \(quoted)", "thin_dump --repair -o saved.xml \(quoted)"],
        fault: first.fields)
    ]
  }
}
