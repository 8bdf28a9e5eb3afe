import BlockIO
import ThinFormat
import ThinMetadata
import ThinTools

/// Runs the reading tools on damaged images and checks their results.
///
/// The rule: an image is never called clean if its logical content, as shown by a dump, differs
/// from that of the sound image. The exception is damage with a corrected checksum that made
/// another sound pool: see `Damage.anotherSoundPool`.
public struct DamageTrial {
  /// The result for one image.
  public enum Outcome: Equatable, Sendable {
    /// The check reported damage, leaks or minor faults, or refused the image.
    case reported
    /// Called clean, and the logical content is unchanged.
    case cleanAndUnchanged
    /// Called clean with a different content, because the image is that of another sound pool:
    /// everything on the disk agrees with it.
    case anotherSoundPool(String)
    /// Called clean with a different content: a fault of the checker.
    case missed
    /// Only leaks and the like were reported, but repairing them changed the mappings or left
    /// findings that a repair must remove.
    case badlyMended
    /// Damage was reported, but no finding names the damaged block.
    case reportedElsewhere
    /// What was packed came out otherwise.
    case unpackedOtherwise

    /// Whether it is a fault of a tool.
    public var isFault: Bool {
      [.missed, .badlyMended, .reportedElsewhere, .unpackedOtherwise].contains(self)
    }
  }

  private let generator: DamageGenerator
  private let baseline: [UInt8]
  let hasSnapshot: Bool
  private let dumpText = DumpText()
  let nowhere: TextOutput

  /// Trials on a sound image in the file `path`.
  public init(image path: String) throws {
    let device = try MemoryDevice(contentsOf: path)
    generator = try DamageGenerator(device)
    nowhere = try TextOutput(path: "/dev/null")
    hasSnapshot = try MetadataView(device, source: .current).superblock.metadataSnapshot != 0
    baseline = try dumpText(device)
  }

  /// Bytes of the image.
  public var imageByteCount: UInt64 { generator.device.byteCount }

  /// Damages the image according to `seed`, runs every reading tool, checks the results, runs the
  /// engine on it, and repairs the image.
  public func run(seed: UInt64) -> (damage: Damage, outcome: Outcome) {
    var random = SplitMix64(seed: seed)
    let device = generator.device
    let damage = generator.damage(&random)
    defer { device.revert() }
    runOtherTools(device)
    var outcome = judge(damage, device)
    if !packAndUnpack(device, &random) { outcome = .unpackedOtherwise }
    exerciseEngine(device, &random)
    return (damage, outcome)
  }

  private func judge(_ damage: Damage, _ device: MemoryDevice) -> Outcome {
    guard let report = try? ThinCheck.run(device, options: CheckOptions(), progress: Progress())
    else {
      return .reported
    }
    if !report.isDamaged && !report.isClean { return mend(damage, device) }
    guard report.isClean else {
      let isContent = !damage.isResealed && damage.action != .truncate && damage.role != .superblock
      // Of two exchanged blocks, one may be unreachable below the other.
      let changed = Set(device.changedBlocks)
      let isNamed = report.findings.contains { finding in
        finding.block.map { changed.contains($0.rawValue) } ?? false
      }
      return isContent && !isNamed && !changed.isEmpty ? .reportedElsewhere : .reported
    }
    if let text = try? dumpText(device), text == baseline { return .cleanAndUnchanged }
    return damage.anotherSoundPool.map { .anotherSoundPool($0) } ?? .missed
  }

  private func mend(_ damage: Damage, _ device: MemoryDevice) -> Outcome {
    var options = CheckOptions()
    options.autoRepair = true
    _ = try? ThinCheck.run(device, options: options, progress: Progress())
    guard let report = try? ThinCheck.run(device, options: CheckOptions(), progress: Progress()),
      !report.isDamaged, report.leakCount == 0, !report.findings.contains(where: \.isMendable)
    else { return .badlyMended }
    if let text = try? dumpText(device), withoutFlag(text) == withoutFlag(baseline) {
      return .reported
    }
    return damage.anotherSoundPool.map { .anotherSoundPool($0) } ?? .badlyMended
  }

  /// A dump without the needs-check flag, which a repair clears.
  private func withoutFlag(_ dump: [UInt8]) -> [UInt8] {
    let flag = Array(" flags=\"1\"".utf8)
    let line = dump.prefix { $0 != UInt8(ascii: "\n") }
    guard let range = line.firstRange(of: flag) else { return dump }
    return Array(dump[..<range.lowerBound] + dump[range.upperBound...])
  }
}
