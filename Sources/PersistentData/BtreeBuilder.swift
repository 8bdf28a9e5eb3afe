public import ThinFormat

/// Builds a tree bottom-up from entries in ascending order: full nodes, and the last two of every
/// level evened out, so that none but the root is underfull.
///
/// For trees that share nothing: every node written gets one reference in the metadata counts.
public final class BtreeBuilder {
  private let writer: SequentialBlockWriter
  private let counts: ReferenceCounts
  /// Entries waiting, leaves first.
  private var levels: [NodeAccumulator]

  /// A builder of a tree of `kind`.
  /// - Parameters:
  ///   - writer: where nodes go.
  ///   - counts: of metadata blocks; every node written is counted here.
  public init(_ kind: TreeKind, writer: SequentialBlockWriter, counts: ReferenceCounts) {
    self.writer = writer
    self.counts = counts
    levels = [NodeAccumulator(isLeaf: true, valueSize: kind.valueSize)]
  }

  /// Adds an entry.
  /// - Parameters:
  ///   - key: above all keys so far.
  ///   - encode: writes the value into the buffer at the offset that it gets.
  /// - Throws: what writing a full node says.
  public func append(key: UInt64, encode: (UnsafeMutableRawBufferPointer, Int) -> Void)
    throws(BlockWriteError)
  {
    if levels[0].isFull { try writeNode(level: 0, entries: levels[0].entriesMax) }
    levels[0].append(key: key, encode: encode)
  }

  /// Writes what is left and returns the root, an empty leaf where there was no entry.
  public func finish() throws(BlockWriteError) -> UInt64 {
    var level = 0
    while true {
      let waiting = levels[level]
      if level == levels.count - 1 {
        // The only entry of a level is the root below it, except in a leaf.
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
