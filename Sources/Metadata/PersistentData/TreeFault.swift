public import ThinFormat

/// A fault of a tree: its place, and the expected and found values.
public struct TreeFault: Error, Equatable, Sendable {
  /// The problem.
  public enum Problem: Equatable, Sendable {
    /// The block is unusable, and everything below it is lost.
    case unusable(BlockProblem)
    /// Entry `entry` of the block points beyond the end of the metadata.
    case pointsBeyondEnd(entry: Int, child: UInt64, blockCount: UInt64)
    /// Another structure already uses the block.
    case crossLinked
    /// Following the tree leads back to the block.
    case cycle
    /// The tree has more levels than any tree of the format can have.
    case tooDeep
    /// An internal node without entries.
    case emptyInternalNode
    /// The block's smallest key is below its separator in the parent.
    case keyBelowSeparator(expected: UInt64, found: UInt64)
    /// The block's largest key is not below the next separator in its parent.
    case keyNotBelowNextSeparator(limit: UInt64, found: UInt64)
    /// Siblings have subtrees of different heights.
    case unevenHeight(expected: Int, found: Int)
    /// A node other than a root has fewer entries than the kernel ever leaves.
    case underfull(expected: Int, found: Int)
    /// A mapping to a data block that the data device does not have.
    case dataBlockBeyondEnd(virtualBlock: UInt64, dataBlock: UInt64, blockCount: UInt64)
    /// A mapping newer than the pool's time.
    case mappingFromFuture(virtualBlock: UInt64, time: UInt32, poolTime: UInt32)
  }

  /// The tree.
  public let tree: TreeKind
  /// The block with the problem.
  public let block: UInt64
  /// The node that points at it, if known and helpful.
  public let parent: UInt64?
  /// The problem.
  public let problem: Problem

  /// Whether the tree is unusable because of it.
  public var isFatal: Bool {
    if case .underfull = problem { return false }
    return true
  }

  /// A fault in `block` of `tree`.
  public init(_ tree: TreeKind, block: UInt64, parent: UInt64? = nil, _ problem: Problem) {
    self.tree = tree
    self.block = block
    self.parent = parent
    self.problem = problem
  }
}

extension TreeFault: CustomStringConvertible {
  /// One line for users.
  public var description: String {
    let place = "\(tree): block \(block)" + (parent.map { " (child of block \($0))" } ?? "")
    switch problem {
    case .unusable(let problem): return "\(place): \(problem)"
    case .pointsBeyondEnd(let entry, let child, let count):
      return "\(place): entry \(entry) points to block \(child), "
        + "expected a block below \(count)"
    case .crossLinked:
      return "\(place): expected a node of this tree, found a block that another structure uses"
    case .cycle: return "\(place): expected a tree, found a cycle that leads back to the block"
    case .tooDeep:
      return "\(place): expected at most \(Limits.treeLevelsMax) levels, found more"
    case .emptyInternalNode: return "\(place): expected at least one child, found none"
    case .keyBelowSeparator(let expected, let found):
      return "\(place): expected keys of at least \(expected), found \(found)"
    case .keyNotBelowNextSeparator(let limit, let found):
      return "\(place): expected keys below \(limit), found \(found)"
    case .unevenHeight(let expected, let found):
      return "\(place): expected a subtree of \(expected) levels like its siblings', found \(found)"
    case .underfull(let expected, let found):
      return "\(place): expected at least \(expected) entries, found \(found)"
    case .dataBlockBeyondEnd(let virtual, let data, let count):
      return "\(place): virtual block \(virtual) is mapped to data block \(data), "
        + "expected a block below \(count)"
    case .mappingFromFuture(let virtual, let time, let poolTime):
      return "\(place): the mapping of virtual block \(virtual) has time \(time), "
        + "expected at most the pool's time \(poolTime)"
    }
  }
}
