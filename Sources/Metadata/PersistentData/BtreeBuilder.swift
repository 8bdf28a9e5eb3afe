public import ThinFormat

/// Builds a tree bottom-up from entries in ascending order: full nodes, except that the last two of
/// every level are balanced, so that only the root can be underfull.
///
/// For trees without shared nodes: every written node gets one reference in the metadata counts.
public final class BtreeBuilder {
  private let writer: SequentialBlockWriter
  private let counts: ReferenceCounts
  /// The waiting entries of each level, leaves first.
  private var levels: [NodeAccumulator]

  /// A builder of a tree of `kind`.
  /// - Parameters:
  ///   - writer: writes the nodes.
  ///   - counts: counts of metadata blocks, in which every written node is counted.
  public init(_ kind: TreeKind, writer: SequentialBlockWriter, counts: ReferenceCounts) {
    self.writer = writer
    self.counts = counts
    levels = [NodeAccumulator(isLeaf: true, valueSize: kind.valueSize)]
  }

  /// Adds an entry.
  /// - Parameters:
  ///   - key: larger than all keys so far.
  ///   - encode: writes the value into the buffer at the given offset.
  /// - Throws: errors of writing a full node.
  public func append(key: UInt64, encode: (UnsafeMutableRawBufferPointer, Int) -> Void)
    throws(BlockWriteError)
  {
    if levels[0].isFull { try writeNode(level: 0, entries: levels[0].entriesMax) }
    unsafe levels[0].append(key: key, encode: encode)
  }

  /// Writes the waiting entries. Returns the root, which is an empty leaf if there are no entries.
  public func finish() throws(BlockWriteError) -> UInt64 {
    var level = 0
    while true {
      let waiting = levels[level]
      if level == levels.count - 1 {
        // If a level has a single entry, the node below is the root, except for a leaf.
        if level > 0 && waiting.count == 1 { return waiting.removeLast().value }
        if waiting.count <= waiting.entriesMax {
          let root = try waiting.writeNode(entries: waiting.count, to: writer).block
          counts.increment(root)
          return root
        }
      }
      while waiting.count > 0 {
        try writeNode(level: level, entries: waiting.nextNodeCount)
      }
      level += 1
    }
  }

  private func writeNode(level: Int, entries: Int) throws(BlockWriteError) {
    let node = try levels[level].writeNode(entries: entries, to: writer)
    counts.increment(node.block)
    if level + 1 == levels.count {
      levels.append(NodeAccumulator(isLeaf: false, valueSize: 8))
    }
    if levels[level + 1].isFull {
      try writeNode(level: level + 1, entries: levels[level + 1].entriesMax)
    }
    levels[level + 1].append(key: node.key, value: node.block)
  }
}
