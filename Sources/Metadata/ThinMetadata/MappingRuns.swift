import BlockIO
public import PersistentData
public import ThinFormat

extension MetadataView {
  /// Calls `body` with every mapping run of the thin device whose mapping tree is at `root`, by
  /// ascending virtual blocks. A run has consecutive virtual blocks on consecutive data blocks, of
  /// the same time.
  ///
  ///     let view = try MetadataView(device, source: .current)
  ///     for device in try view.devices() {
  ///       try view.forEachRun(of: device.root) { run in print(device.id, run) }
  ///     }
  ///
  /// Internal nodes are read a level at a time, and many leaves together, in key order. Memory: a
  /// list of leaves to read (256 KiB), and that of `LeafSequence`.
  /// - Throws: `TreeFault` at the first damage. The runs before it are correct.
  public func forEachRun(of root: MetadataBlock, _ body: (MappingRun) -> Void) throws(TreeFault) {
    let leaves = BlockStream(reader.device)
    let planMax = 1 << 15
    var plan: [UInt64] = []
    var order = LeafOrder()
    var joiner = RunJoiner()
    func read() throws(TreeFault) {
      var ahead = 0
      try leaves.read(
        next: { () throws(TreeFault) -> UInt64? in
          guard ahead < plan.count else { return nil }
          ahead += 1
          return plan[ahead - 1]
        },
        body: { block, bytes, failure throws(TreeFault) in
          let leaf = try order.next(MetadataBlock(block), bytes, failure: failure)
          for i in 0..<leaf.entryCount {
            let mapping = Mapping(rawValue: leaf.value64(i))
            guard mapping.dataBlock < dataBlockCount else {
              throw TreeFault(
                .mappings, block: block,
                .dataBlockBeyondEnd(
                  virtualBlock: leaf.key(i), dataBlock: mapping.dataBlock,
                  blockCount: dataBlockCount))
            }
            let (virtual, data) = (VirtualBlock(leaf.key(i)), DataBlock(mapping.dataBlock))
            if joiner.extend(virtual, data, mapping.time) { continue }
            if let run = joiner.begin(virtual, data, mapping.time) { body(run) }
          }
        })
      plan.removeAll(keepingCapacity: true)
    }
    try LeafSequence(reader, stream: BlockStream(reader.device)).forEach(root: root.rawValue) {
      leaf throws(TreeFault) in
      plan.append(leaf)
      if plan.count == planMax { try read() }
    }
    try read()
    if let run = joiner.end() { body(run) }
  }
}
