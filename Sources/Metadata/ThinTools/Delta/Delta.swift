public import BlockIO
import PersistentData
public import ThinFormat
public import ThinMetadata

/// A side of a comparison.
public enum DeltaSide: Equatable, Sendable {
  /// The thin device with this id.
  case thin(ThinID)
  /// The mapping tree whose root is this metadata block.
  case root(MetadataBlock)
}

/// The options of `ThinDelta`.
public struct DeltaOptions: Equatable, Sendable {
  /// The first side, usually the older one.
  public var left: DeltaSide
  /// The second side.
  public var right: DeltaSide
  /// The state of the pool to read.
  public var source = MetadataView.Source.current
  /// Whether to list data blocks too.
  public var listsDataBlocks = false

  /// A comparison of two sides.
  public init(left: DeltaSide, right: DeltaSide) {
    self.left = left
    self.right = right
  }
}

/// `thin_delta`.
public enum ThinDelta {
  /// Writes the differences between the mappings of two thin devices, in the format of the original
  /// `thin_delta`.
  ///
  /// Mappings are compared by data block. The mappings of a run of virtual blocks have the same
  /// relation; with `listsDataBlocks` their data blocks are consecutive too.
  /// - Throws: `ToolError`: `refused` for a device that does not exist, and the first damage.
  public static func run(
    _ device: any BlockDevice, options: DeltaOptions, to sink: ByteSink, progress: Progress
  ) throws(ToolError) {
    let view: MetadataView
    let roots: [(id: ThinID, root: MetadataBlock)]
    do throws(MetadataError) {
      view = try MetadataView(device, source: options.source)
      roots = try view.deviceRoots()
    } catch {
      throw ToolError(error)
    }
    func root(_ side: DeltaSide) throws(ToolError) -> MetadataBlock {
      switch side {
      case .root(let block): return block
      case .thin(let id):
        guard let found = roots.first(where: { $0.id == id }) else {
          throw ToolError(
            .refused, "there is no thin device \(id); thin_ls lists all thin devices")
        }
        return found.root
      }
    }
    let (left, right) = (try root(options.left), try root(options.right))
    progress.begin("Comparing", total: 0)
    var writer = DeltaWriter(sink: sink, listsDataBlocks: options.listsDataBlocks)
    var failure: BlockIOError?
    do throws(TreeFault) {
      var difference = try MappingDifference(
        view, left: left, right: right, includesSame: true,
        rule: options.listsDataBlocks ? .dataBlocks : .virtualBlocks)
      writer.prepare(
        DumpHeader(view.superblock, dataBlockCount: view.dataBlockCount, SuperblockOverrides()),
        options)
      try difference.forEachRun { run in
        progress.advance()
        do throws(BlockIOError) {
          try writer.run(run)
          return true
        } catch {
          failure = error
          return false
        }
      }
    } catch {
      throw ToolError(error, advice: "Run thin_check to see everything that is wrong.")
    }
    if let failure { throw ToolError(failure) }
    try written { () throws(BlockIOError) in try writer.end() }
  }
}

/// Writes the XML of a comparison.
private struct DeltaWriter {
  let sink: ByteSink
  let listsDataBlocks: Bool
  /// The kind of the open element.
  private var open: DifferenceRun.Kind?
  private var heading = ""

  init(sink: ByteSink, listsDataBlocks: Bool) {
    self.sink = sink
    self.listsDataBlocks = listsDataBlocks
  }

  /// Prepares the first lines, which are written together with the next text: a comparison that
  /// fails at once prints nothing.
  mutating func prepare(_ header: DumpHeader, _ options: DeltaOptions) {
    func side(_ name: String, _ side: DeltaSide) -> String {
      switch side {
      case .thin(let id): "\(name)=\"\(id)\""
      case .root(let block): "\(name)_root=\"\(block)\""
      }
    }
    heading =
      header.element()
      + "  <diff \(side("left", options.left)) \(side("right", options.right))>\n"
  }

  mutating func run(_ run: DifferenceRun) throws(BlockIOError) {
    if !heading.isEmpty { try writeHeading() }
    guard listsDataBlocks else { return try element(run) }
    if open != run.kind {
      try close()
      open = run.kind
      try sink.write("    <\(run.kind.element)>\n")
    }
    try range(run)
  }

  mutating func end() throws(BlockIOError) {
    try writeHeading()
    try close()
    // No newline, as in the original tool.
    try sink.write("  </diff>\n</superblock>")
  }

  private mutating func writeHeading() throws(BlockIOError) {
    try sink.write(heading)
    heading = ""
  }

  private mutating func close() throws(BlockIOError) {
    if let open { try sink.write("    </\(open.element)>\n") }
    open = nil
  }

  private func element(_ run: DifferenceRun) throws(BlockIOError) {
    try unsafe sink.write(upTo: 128) { line in
      unsafe line.append("    <")
      unsafe line.append(run.kind.element)
      unsafe line.append(" begin=\"")
      unsafe line.append(decimal: run.virtualBlock.rawValue)
      unsafe line.append("\" length=\"")
      unsafe line.append(decimal: run.length)
      unsafe line.append("\"/>\n")
    }
  }

  private func range(_ run: DifferenceRun) throws(BlockIOError) {
    try unsafe sink.write(upTo: 160) { line in
      unsafe line.append("      <range begin=\"")
      unsafe line.append(decimal: run.virtualBlock.rawValue)
      if run.kind == .different {
        unsafe line.append("\" left_data_begin=\"")
        unsafe line.append(decimal: run.left.rawValue)
        unsafe line.append("\" right_data_begin=\"")
        unsafe line.append(decimal: run.right.rawValue)
      } else {
        unsafe line.append("\" data_begin=\"")
        unsafe line.append(decimal: (run.kind == .rightOnly ? run.right : run.left).rawValue)
      }
      unsafe line.append("\" length=\"")
      unsafe line.append(decimal: run.length)
      unsafe line.append("\"/>\n")
    }
  }
}

extension DifferenceRun.Kind {
  fileprivate var element: StaticString {
    switch self {
    case .same: "same"
    case .leftOnly: "left_only"
    case .rightOnly: "right_only"
    case .different: "different"
    }
  }
}
