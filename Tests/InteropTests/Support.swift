import TestSupport

/// Runs a tool under test.
func ours(_ tool: String, _ arguments: String...) throws -> ProcessResult {
  try run([Tools.path(tool)] + arguments)
}

/// Runs the peer's tool of the same name.
func peers(_ tool: String, _ arguments: String...) throws -> ProcessResult {
  try run([Peer.path(tool)] + arguments)
}

/// A dump with the names of its `<def>`s replaced by their order: the tools name them after blocks,
/// and a restore puts the same mappings into other blocks.
func withoutNames(_ dump: String) -> String {
  var numbers: [Substring: Int] = [:]
  var result = ""
  for line in dump.split(separator: "\n", omittingEmptySubsequences: false) {
    let parts = line.split(separator: "\"", omittingEmptySubsequences: false)
    if parts.count == 3, parts[0].hasSuffix("name=") {
      let number = numbers[parts[1]] ?? numbers.count
      numbers[parts[1]] = number
      result += "\(parts[0])\"\(number)\"\(parts[2])\n"
    } else {
      result += line + "\n"
    }
  }
  return result
}

/// A dump of one device, `body` its mappings.
func poolXML(
  mapped: Int, dataBlocks: Int = 1000, time: Int = 9, id: String = "1", _ body: String
) -> String {
  """
  <superblock uuid="" time="\(time)" transaction="5" version="2" data_block_size="128" \
  nr_data_blocks="\(dataBlocks)">
    <device dev_id="\(id)" mapped_blocks="\(mapped)" transaction="0" creation_time="0" snap_time="0">
  \(body)
    </device>
  </superblock>
  """
}

/// A mapping of one block.
func single(_ virtual: Int, _ data: Int, time: String = "0") -> String {
  "    <single_mapping origin_block=\"\(virtual)\" data_block=\"\(data)\" time=\"\(time)\"/>"
}
