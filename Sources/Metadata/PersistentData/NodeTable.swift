import ThinFormat

/// Facts about every tree node that was read, enough to check how nodes fit together without
/// reading them again.
///
/// Memory: four bytes per metadata block examined, 16 per leaf, 32 per other node, and twelve per entry of
/// internal nodes up to `entriesKeptMax`; further internal nodes are read again when needed.
struct NodeTable: ~Copyable {
  struct Node {
    var firstKey: UInt64 = 0
    var lastKey: UInt64 = 0
    /// Leaf entries in the whole subtree; for an internal node known only after `verify`.
    var leafEntries: UInt64 = 0
    /// The position of an internal node's kept entries; `.max` if they are not kept.
    var kept: UInt32 = .max
    var entryCount: UInt16 = 0
    /// The number of levels of the subtree, 1 for a leaf, 0 for an internal node before `verify`.
    var height: UInt8 = 0
    fileprivate var packed: UInt8 = 0

    init(_ kind: TreeKind, state: State = .unverified) {
      packed = kind.rawValue << 5
      self.state = state
    }

    var kind: TreeKind { TreeKind(rawValue: packed >> 5) ?? .mappings }
    var isLeaf: Bool { height == 1 }
    var state: State {
      get { State(rawValue: packed & 7) ?? .unusable }
      set { packed = packed & ~7 | newValue.rawValue }
    }
    /// An unusable node that was replaced by other nodes, which are kept as its entries.
    var isAdopted: Bool {
      get { packed & 16 != 0 }
      set { packed = newValue ? packed | 16 : packed & ~16 }
    }
    /// A sound node in the wrong place.
    var isMisplaced: Bool {
      get { packed & 8 != 0 }
      set { packed = newValue ? packed | 8 : packed & ~8 }
    }
  }

  enum State: UInt8 {
    /// An internal node whose children were not checked.
    case unverified
    /// On the path being followed.
    case inProgress
    /// The subtree is sound.
    case sound
    /// The node is usable, but its place or its subtree is not sound.
    case faulty
    /// The node is unusable.
    case unusable
  }

  /// A leaf in less room: nearly all nodes are leaves.
  private struct Leaf {
    var firstKey: UInt64
    /// The last key is so much above the first.
    var keySpan: UInt32
    var entryCount: UInt16
    var packed: UInt8

    /// Nil for a node that has to be kept whole.
    init?(_ node: Node) {
      guard node.isLeaf, node.kept == .max, node.leafEntries == UInt64(node.entryCount),
        let keySpan = UInt32(exactly: node.lastKey &- node.firstKey)
      else { return nil }
      firstKey = node.firstKey
      self.keySpan = keySpan
      entryCount = node.entryCount
      packed = node.packed
    }

    var node: Node {
      var node = Node(.mappings)
      node.firstKey = firstKey
      node.lastKey = firstKey &+ UInt64(keySpan)
      node.leafEntries = UInt64(entryCount)
      node.entryCount = entryCount
      node.height = 1
      node.packed = packed
      return node
    }
  }

  /// Marks the index of a leaf.
  private static let leafBit: UInt32 = 1 << 31

  /// The most entries of internal nodes to keep, at twelve bytes each: 6 MiB.
  private let entriesKeptMax = 1 << 19
  /// By block: 0 for one that was not read, else one more than the place in its list.
  private let indexes: ZeroedArray<UInt32>
  private var leaves: [Leaf] = []
  private var others: [Node] = []
  private var keptKeys: [UInt64] = []
  private var keptChildren: [UInt32] = []

  init(blockCount: UInt64) { indexes = ZeroedArray(count: Int(blockCount)) }

  /// Finds the node of a block, for `node` and `update`.
  func index(of block: UInt64) -> Int? {
    let i = indexes[Int(block)]
    return i == 0 ? nil : Int(i)
  }

  func node(_ index: Int) -> Node {
    let i = UInt32(truncatingIfNeeded: index)
    return i & Self.leafBit != 0 ? leaves[Int(i & ~Self.leafBit) - 1].node : others[Int(i) - 1]
  }

  /// Changes a node, which stays a leaf if it is one.
  mutating func update(_ index: Int, _ change: (inout Node) -> Void) {
    let i = UInt32(truncatingIfNeeded: index)
    guard i & Self.leafBit != 0 else { return change(&others[Int(i) - 1]) }
    let place = Int(i & ~Self.leafBit) - 1
    var node = leaves[place].node
    change(&node)
    guard let leaf = Leaf(node) else { preconditionFailure("a leaf became another node") }
    leaves[place] = leaf
  }

  mutating func insert(_ block: UInt64, _ node: Node) {
    if let leaf = Leaf(node) {
      leaves.append(leaf)
      indexes[Int(block)] = UInt32(leaves.count) | Self.leafBit
    } else {
      others.append(node)
      indexes[Int(block)] = UInt32(others.count)
    }
  }

  /// Keeps the entries of an internal node, if there is room.
  mutating func keep(_ view: borrowing BtreeNodeView) -> UInt32 {
    guard keptKeys.count + view.entryCount <= entriesKeptMax else { return .max }
    let at = UInt32(keptKeys.count)
    for i in 0..<view.entryCount {
      keptKeys.append(view.key(i))
      keptChildren.append(UInt32(truncatingIfNeeded: min(view.value64(i), UInt64(UInt32.max))))
    }
    return at
  }

  /// Keeps entries of a node that does not exist on the device.
  mutating func keep(_ entries: [(key: UInt64, block: UInt64)]) -> UInt32 {
    let at = UInt32(keptKeys.count)
    for entry in entries {
      keptKeys.append(entry.key)
      keptChildren.append(UInt32(truncatingIfNeeded: entry.block))
    }
    return at
  }

  func keptKey(_ at: UInt32, _ i: Int) -> UInt64 { keptKeys[Int(at) + i] }
  func keptChild(_ at: UInt32, _ i: Int) -> UInt64 { UInt64(keptChildren[Int(at) + i]) }
}
