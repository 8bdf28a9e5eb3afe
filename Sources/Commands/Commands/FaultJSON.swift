import BlockIO
import ThinFormat
import ThinTools

extension JSONWriter {
  /// Writes the known facts of a fault, as members of the open object.
  mutating func members(of fault: FaultFields) throws(BlockIOError) {
    try member("kind", fault.kind)
    if let tree = fault.tree { try member("tree", tree.identifier) }
    if let map = fault.spaceMap { try member("space_map", map.rawValue) }
    if let block = fault.block { try member("block", block.rawValue) }
    if let parent = fault.parent { try member("parent", parent.rawValue) }
    if let entry = fault.entry { try member("entry", entry) }
    if let expected = fault.expected { try member("expected", expected) }
    if let found = fault.found { try member("found", found) }
    if let device = fault.device { try member("device", device.rawValue) }
    if !fault.ranges.isEmpty {
      try key("ranges")
      try beginArray()
      for range in fault.ranges {
        try beginObject()
        try member("begin", range.begin)
        try member("length", range.length)
        try endObject()
      }
      try endArray()
    }
    if let code = fault.systemError { try member("errno", UInt64(max(0, code))) }
  }

  private mutating func member(_ name: String, _ value: FaultFields.Value) throws(BlockIOError) {
    switch value {
    case .number(let number): try member(name, number)
    case .word(let word): try member(name, word)
    }
  }
}

extension Console {
  /// Reports an error to a program that asked for JSON: writes an object `{"error": {...}}`, unless
  /// the output itself failed.
  func writeJSON(_ error: any Error) {
    let error = (error as? BlockIOError).map { ToolError($0) } ?? error as? ToolError
    guard let error else { return }
    if case .system(let failed) = error.cause, failed.path == output.path { return }
    var json = JSONWriter(output)
    do throws(BlockIOError) {
      try json.beginObject()
      try json.key("error")
      try json.beginObject()
      try json.members(of: FaultFields(error))
      try json.member("message", error.message)
      try json.endObject()
      try json.endObject()
      try json.finish()
    } catch {
      // `finish` flushes the output and reports a failure.
    }
  }
}
