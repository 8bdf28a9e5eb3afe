public import BlockIO
public import ThinFormat

/// Writes JSON piece by piece, on one line. Memory: one bit per open level.
///
/// Invariant: bit `depth` of `hasElements` says whether the innermost open object or array has an
/// element already, and so needs a comma before the next.
public struct JSONWriter: ~Copyable {
  private let sink: ByteSink
  private var depth: UInt64 = 0
  private var hasElements: UInt64 = 0
  private var followsKey = false

  /// Levels that may be open at the same time.
  public static var depthMax: UInt64 { 63 }

  /// Writes to `sink`, which the caller flushes.
  public init(_ sink: ByteSink) { self.sink = sink }

  /// Opens an object.
  public mutating func beginObject() throws(BlockIOError) { try open("{") }

  /// Closes an object.
  public mutating func endObject() throws(BlockIOError) { try close("}") }

  /// Opens an array.
  public mutating func beginArray() throws(BlockIOError) { try open("[") }

  /// Closes an array.
  public mutating func endArray() throws(BlockIOError) { try close("]") }

  /// Writes the name of the member that comes next.
  public mutating func key(_ name: String) throws(BlockIOError) {
    try separate()
    try writeQuoted(name)
    try sink.write(":")
    followsKey = true
  }

  /// Writes a string.
  public mutating func value(_ text: String) throws(BlockIOError) {
    try separate()
    try writeQuoted(text)
  }

  /// Writes a number, or null.
  public mutating func value(_ number: UInt64?) throws(BlockIOError) {
    try separate()
    if let number {
      try sink.write(decimal: number)
    } else {
      try sink.write("null" as StaticString)
    }
  }

  /// Writes a truth value.
  public mutating func value(_ truth: Bool) throws(BlockIOError) {
    try separate()
    try sink.write(truth ? "true" : "false")
  }

  /// Writes a name and a string.
  public mutating func member(_ name: String, _ text: String) throws(BlockIOError) {
    try key(name)
    try value(text)
  }

  /// Writes a name and a number, or null.
  public mutating func member(_ name: String, _ number: UInt64?) throws(BlockIOError) {
    try key(name)
    try value(number)
  }

  /// Writes a name and the number of a block or device, or null.
  public mutating func member(_ name: String, _ number: (some PoolNumber)?) throws(BlockIOError) {
    try member(name, number?.rawValue)
  }

  /// Writes a name and a truth value.
  public mutating func member(_ name: String, _ truth: Bool) throws(BlockIOError) {
    try key(name)
    try value(truth)
  }

  /// Ends the document with a newline.
  public mutating func finish() throws(BlockIOError) {
    precondition(depth == 0, "\(depth) levels are open")
    try sink.write("\n" as StaticString)
  }

  private mutating func open(_ bracket: StaticString) throws(BlockIOError) {
    precondition(depth < Self.depthMax, "too many levels")
    try separate()
    try sink.write(bracket)
    depth += 1
    hasElements &= ~(1 << depth)
  }

  private mutating func close(_ bracket: StaticString) throws(BlockIOError) {
    precondition(depth > 0 && !followsKey, "nothing to close")
    depth -= 1
    try sink.write(bracket)
  }

  private mutating func separate() throws(BlockIOError) {
    if followsKey {
      followsKey = false
      return
    }
    if hasElements & (1 << depth) != 0 { try sink.write("," as StaticString) }
    hasElements |= 1 << depth
  }

  private func writeQuoted(_ text: String) throws(BlockIOError) {
    var quoted = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": quoted += "\\\""
      case "\\": quoted += "\\\\"
      case "\n": quoted += "\\n"
      case "\t": quoted += "\\t"
      case "\0"..<" ", "\u{7f}":
        let digits = String(scalar.value, radix: 16)
        quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: quoted.unicodeScalars.append(scalar)
      }
    }
    try sink.write(quoted + "\"")
  }
}
