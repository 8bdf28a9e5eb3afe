import Glibc

/// The contents that the rig's scripts write: a block of device `device` is its own address, padded with
/// spaces and a newline to 64 bytes, repeated. So any part can be told from any other block's.
func contents(device: UInt64, block: UInt64, byteCount: Int) -> [UInt8] {
  var unit = Array("dmthin \(device) \(block)".utf8)
  unit += Array(repeating: 32, count: max(0, 63 - unit.count)) + [10]
  var all: [UInt8] = []
  all.reserveCapacity(byteCount)
  for _ in 0..<(byteCount / 64) { all += unit }
  return all
}

/// Sends each line of the input as "dmsetup message POOL 0 LINE" would.
func sendMessages(to pool: String) throws {
  let kernel = KernelCalls()
  while let line = readLine() { try kernel.message(pool, line) }
}

/// Prints blocks of the pattern.
func printPattern(device: UInt64, blockBytes: Int, first: UInt64, count: UInt64) {
  for block in first..<(first + count) {
    put(contents(device: device, block: block, byteCount: blockBytes))
  }
}

/// Writes the first `bytes` (a multiple of 4096) of the pattern into blocks FIRST, FIRST+STEP, ... (COUNT of
/// them) of device ID; BASE blocks are added to the position in `path`, for a path that holds several
/// devices. Buffered, with an fsync after each line: lines reach the pool in their order.
func writeScattered(_ path: String, blockBytes: Int, bytes: Int) throws {
  let device = try RigFile(path, O_RDWR)
  while let line = readLine() {
    let n = try numbers(line)
    guard n.count == 4 || n.count == 5 else { throw RigError("'\(line)': four numbers or five") }
    let base = n.count == 5 ? n[4] : 0
    for i in 0..<n[2] {
      let block = n[1] + i * n[3]
      try contents(device: n[0], block: block, byteCount: bytes).withUnsafeBytes {
        try device.write($0, at: Int(base + block) * blockBytes)
      }
    }
    try device.sync()
  }
}

/// Discards COUNT blocks from FIRST, one request per line.
func discardRanges(_ path: String, blockBytes: UInt64) throws {
  let device = try RigFile(path, O_RDWR)
  while let line = readLine() {
    let n = try numbers(line)
    guard n.count == 2 else { throw RigError("'\(line)': two numbers") }
    try device.discard(n[0] * blockBytes, n[1] * blockBytes)
  }
}

/// Prints "ID FIRST COUNT" per run of mapped blocks, the shared parts (<def>, <ref>) included, and "ID 0 0"
/// for a device without mappings.
func printExtents() throws {
  func attribute(_ name: String, _ line: String) throws -> Substring {
    let start = " \(name)=\""
    guard let range = line.firstRange(of: start) else { throw RigError("no \(name) in '\(line)'") }
    return line[range.upperBound...].prefix { $0 != "\"" }
  }
  typealias Runs = [(first: Substring, count: Substring)]
  var shared: [Substring: Runs] = [:]
  var (definition, device): (Substring?, Substring) = (nil, "")
  var runs: Runs = []
  while let line = readLine() {
    // The name of the element, behind its angle bracket.
    switch line.drop(while: { $0 == " " }).dropFirst().prefix(while: { $0 != " " && $0 != ">" }) {
    case "def":
      definition = try attribute("name", line)
      runs = []
    case "/def": if let definition { shared[definition] = runs }
    case "device":
      device = try attribute("dev_id", line)
      runs = []
    case "ref":
      guard let more = shared[try attribute("name", line)] else {
        throw RigError("no definition for '\(line)'")
      }
      runs += more
    case "single_mapping": runs.append((try attribute("origin_block", line), "1"))
    case "range_mapping":
      runs.append((try attribute("origin_begin", line), try attribute("length", line)))
    case "/device":
      if runs.isEmpty { put("\(device) 0 0\n".utf8) }
      for run in runs { put("\(device) \(run.first) \(run.count)\n".utf8) }
    default: break
    }
  }
}

/// Prints "LABEL DIGEST" per label: of the first `bytes` of every `step` bytes of the ranges (in bytes) given
/// for the label, in the order given.
func printDigests(_ path: String, bytes: Int, step: Int) throws {
  let device = try RigFile(path, O_RDONLY)
  let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 4096)
  defer { buffer.deallocate() }
  var digests: [Substring: RigDigest] = [:]
  var order: [Substring] = []
  while let line = readLine() {
    let words = line.split(separator: " ")
    guard words.count == 3, let offset = Int(words[1]), let length = Int(words[2]) else {
      throw RigError("'\(line)': a label and two numbers")
    }
    if digests[words[0]] == nil { order.append(words[0]) }
    var digest = digests[words[0]] ?? RigDigest()
    for at in stride(from: offset, to: offset + length, by: step) {
      try device.read(into: buffer, at: at)
      digest.add(UnsafeRawBufferPointer(buffer))
    }
    digests[words[0]] = digest
  }
  for label in order { put("\(label) \(digests[label]?.text ?? "")\n".utf8) }
}

/// Damages the first leaf of a mapping tree that has ten mappings or more, behind its header.
func spoilLeaf(of path: String) throws {
  let file = try RigFile(path, O_RDWR)
  let block = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 8)
  defer { block.deallocate() }
  for number in 1...60 {
    try file.read(into: block, at: number * 4096)
    let flags = block.load(fromByteOffset: 4, as: UInt32.self)
    let count = block.load(fromByteOffset: 16, as: UInt32.self)
    guard flags == 2, block.load(fromByteOffset: 24, as: UInt32.self) == 8, count > 9 else {
      continue
    }
    return try Array("xxxx".utf8).withUnsafeBytes { try file.write($0, at: number * 4096 + 2000) }
  }
  throw RigError("\(path) has no such leaf")
}
