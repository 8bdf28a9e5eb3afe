import BlockIO
import Glibc
import ThinFormat
import ThinTools

/// The extraction of one thin device: its image, its map, and what became of it.
final class ExtractJob {
  /// Where an extraction begins.
  private enum Beginning: Equatable {
    case fresh
    case continued
    /// Everything that can be read is in the image.
    case nothingLeft
  }

  /// What was read, and from where.
  struct Source {
    var metadataPath: String
    var dataPath: String
    var data: ExtractionSource
    var originPath: String?
    var origin: ExtractionSource?
    var transactionID: UInt64
  }

  let device: RescueDevice
  let plan: ExtractionPlan
  /// The image; nil where nothing is written.
  let path: String?
  let mapPath: String
  /// What is in the image.
  private(set) var map: RescueMap
  /// Bytes read in this run.
  private(set) var copiedBytes: UInt64 = 0
  /// Ranges of the image that cannot be read from the data device or the external origin, the first thousand.
  private(set) var unreadable: [Range<UInt64>] = []
  private(set) var unreadableBytes: UInt64 = 0
  private(set) var isBlockDevice = false
  private let source: Source
  private let layout: RescueLayout
  private let force: Bool
  private var inputs: [String] {
    [source.metadataPath, source.dataPath] + [source.originPath].compactMap(\.self)
  }

  /// - Parameter byteCount: size of the image; nil for what the mappings and the external origin show.
  init(
    _ index: RescueIndex, _ device: RescueDevice, _ source: Source, byteCount: UInt64?,
    path: String?, mapPath: String?, force: Bool
  ) throws(ToolError) {
    self.device = device
    self.source = source
    self.path = path
    self.mapPath = mapPath ?? (path.map { $0 + ".map" } ?? "")
    self.force = force
    layout = RescueLayout(
      index, device, dataByteCount: source.data.byteCount,
      originByteCount: source.origin?.byteCount ?? 0)
    do throws(BlockIOError) {
      plan = try ExtractionPlan(
        layout, byteCount: byteCount ?? max(layout.knownByteCount, layout.originByteCount))
    } catch {
      throw ToolError(error)
    }
    map = RescueMap(byteCount: plan.byteCount)
  }

  /// Bytes that are lost, whatever the data device gives.
  var lostBytes: UInt64 { plan.lostBytes + plan.beyondBytes }
  /// Whether everything is in the image, and certainly what the device had last.
  var isWhole: Bool { device.isWhole && lostBytes == 0 && unreadableBytes == 0 }
  /// The status for this device.
  var status: ExitStatus {
    guard device.isWhole && lostBytes == 0 else { return .damaged }
    return unreadableBytes == 0 ? .ok : .inputOutput
  }

  // MARK: - The map

  /// Names the device, its size and a digest of where its bytes come from: a map is of use only with these.
  private var identity: String {
    let digits = String(plan.digest, radix: 16)
    return "identity: device \(device.id), \(plan.byteCount) bytes, places "
      + String(repeating: "0", count: 16 - digits.count) + digits
  }

  private var comments: [String] {
    var lines = [
      "Mapfile of dmthin extract \(Version.text), in the form of GNU ddrescue",
      "thin device \(device.id) of \(source.metadataPath) and \(source.dataPath)"
        + (source.originPath.map { ", over the external origin \($0)" } ?? "")
        + ", transaction \(source.transactionID)",
      identity,
    ]
    if isBlockDevice { lines.append(onto) }
    let blockBytes = layout.blockByteCount
    for range in device.doubtful.prefix(1000).map(\.rawValues) {
      let begin = min(plan.byteCount, range.lowerBound.multiplied(by: blockBytes))
      let end = min(plan.byteCount, range.upperBound.multiplied(by: blockBytes))
      guard begin < end else { continue }
      lines.append("doubtful: bytes \(begin) to \(end - 1) may not be the latest")
    }
    return lines
  }

  /// Names the device that the image is on. A file goes with its map by its name.
  private var onto: String { "onto: \(path ?? "")" }

  private func readMap() throws(ToolError) -> RescueMap? {
    guard unsafe access(mapPath, F_OK) == 0 else { return nil }
    let bytes: [UInt8]
    do throws(BlockIOError) {
      bytes = try WholeFile.bytes(at: mapPath, upTo: RescueMap.fileBytesMax)
    } catch {
      throw ToolError(error)
    }
    let (map, comments) = try RescueMap.parse(bytes, path: mapPath)
    guard comments.contains(identity), map.byteCount == plan.byteCount,
      !isBlockDevice || comments.contains(onto)
    else {
      throw ToolError(
        .precious,
        "\(mapPath) is the map of another image: of another device or size, or the metadata led to other "
          + "places then.\nGive another --map and output, or --force to begin again")
    }
    return map
  }

  private func save(_ map: RescueMap) throws(ToolError) {
    var rules = TextOutput.Rules()
    rules.inputs = inputs + [path].compactMap(\.self)
    rules.isPrecious = InputChecks.preciousContent
    let text = try InputChecks.textOutput(mapPath, rules)
    guard text.isAside else {
      throw ToolError(.unsuitable(.output), "\(mapPath) is not a regular file, as a map must be")
    }
    do throws(BlockIOError) {
      try text.sink.write(map.text(comments: comments))
      try text.commit()
    } catch {
      throw ToolError(error)
    }
  }

  // MARK: - The image

  /// Decides how the extraction begins, by what is there.
  private func beginning(
    _ path: String, _ state: ResumableOutput.State, _ old: RescueMap?, _ left: UInt64
  ) throws(ToolError) -> Beginning {
    guard !force else { return .fresh }
    func refused(_ what: String) -> ToolError {
      ToolError(.precious, "\(what). It is kept: give another output, or --force to begin again")
    }
    let isEmpty = (old?.bytes(.finished) ?? 0) == 0 && plan.byteCount > 0
    if state.isBlockDevice {
      return old == nil ? .fresh : left == 0 ? .nothingLeft : .continued
    }
    if state.isUnfinished, state.unfinishedByteCount > 0 {
      let name = path + ResumableOutput.suffix
      guard old != nil else {
        throw refused("\(name) is there from an earlier extraction, without its map \(mapPath)")
      }
      guard !isEmpty else { return .fresh }
      guard state.unfinishedByteCount == plan.byteCount else {
        throw refused(
          "\(name) has \(state.unfinishedByteCount) bytes, but its map is of \(plan.byteCount)")
      }
      return .continued
    }
    guard state.isThere else { return .fresh }
    if state.isUnfinished, isEmpty, old != nil { return .fresh }
    guard old != nil, !isEmpty else {
      throw refused("\(path) exists, and there is no map \(mapPath) of what is in it")
    }
    guard state.byteCount == plan.byteCount else {
      throw refused("\(path) has \(state.byteCount) bytes, but its map is of \(plan.byteCount)")
    }
    return left == 0 ? .nothingLeft : .continued
  }

  private func open(_ path: String, _ beginning: Beginning) throws(ToolError) -> ResumableOutput {
    let output: ResumableOutput
    do throws(OutputError) {
      output = try ResumableOutput(path, reading: inputs, continues: beginning == .continued)
    } catch {
      throw ToolError(error)
    }
    guard output.isBlockDevice else { return output }
    let (there, isBlank): (UInt64, Bool)
    do throws(BlockIOError) {
      there = try output.byteCount()
      isBlank = try output.isBlank(1 << 20)
    } catch {
      throw ToolError(error)
    }
    guard there >= plan.byteCount else {
      throw ToolError(
        .outOfSpace, "\(path) has \(there) bytes, and the image needs \(plan.byteCount)")
    }
    guard beginning == .continued || force || isBlank else {
      throw ToolError(
        .precious, "\(path) is a block device that is not empty; with --force it is overwritten")
    }
    return output
  }

  /// Makes or continues the image.
  func run(retries: Int, progress: Progress) throws(ToolError) {
    guard let path else { return }
    guard ![path, path + ResumableOutput.suffix].contains(mapPath) else {
      throw ToolError(.precious, "\(mapPath) cannot be the image and its map")
    }
    let state: ResumableOutput.State
    do throws(OutputError) {
      state = try ResumableOutput.state(of: path)
    } catch {
      throw ToolError(error)
    }
    isBlockDevice = state.isBlockDevice
    let old = force ? nil : try readMap()
    let probe = Extraction(
      layout, from: source.data, origin: source.origin, to: Nowhere(), map: old ?? map,
      save: { _ in })
    let beginning = try beginning(path, state, old, try probe.leftBytes())
    if beginning == .continued || beginning == .nothingLeft, let old { map = old }
    defer { findUnreadable() }
    guard beginning != .nothingLeft else { return }
    let output = try open(path, beginning)
    if beginning == .fresh {
      // From here on a killed extraction is continued.
      try save(map)
    }
    do throws(BlockIOError) { try output.setSize(plan.byteCount) } catch { throw ToolError(error) }
    let extraction = Extraction(
      layout, from: source.data, origin: source.origin, to: output, map: map, progress: progress,
      save: save)
    extraction.title = "Reading thin device \(device.id)"
    defer {
      map = extraction.map
      copiedBytes = extraction.copiedBytes
    }
    do throws(ToolError) {
      try extraction.run(retries: retries)
      do throws(BlockIOError) { try output.commit() } catch { throw ToolError(error) }
    } catch {
      throw error.saying(
        error.message
          + "\nWhat was read is in \(path)\(isBlockDevice ? "" : ResumableOutput.suffix), "
          + "with the map \(mapPath): the same command continues")
    }
  }

  private func findUnreadable() {
    var layout = layout
    map.forEach { range, status in
      guard status != .finished else { return }
      var place = range.lowerBound
      while place < range.upperBound,
        let extent = try? layout.extent(at: place, limit: range.upperBound)
      {
        place = extent.end
        guard extent.isReadable else { continue }
        unreadableBytes += extent.byteCount
        if let last = unreadable.last, last.upperBound == extent.offset {
          unreadable[unreadable.count - 1] = last.lowerBound..<extent.end
        } else if unreadable.count < 1000 {
          unreadable.append(extent.offset..<extent.end)
        }
      }
    }
  }

  /// For an extraction that is only asked what it would do.
  private final class Nowhere: ExtractionOutput {
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) {}
    func zero(_ range: Range<UInt64>) {}
    func flush() {}
  }
}

extension UInt64 {
  /// The product, or the largest number.
  func multiplied(by factor: UInt64) -> UInt64 {
    let (product, overflow) = multipliedReportingOverflow(by: factor)
    return overflow ? .max : product
  }
}
