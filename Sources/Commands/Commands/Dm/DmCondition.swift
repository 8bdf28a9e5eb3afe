import Glibc

/// The condition of `-S`: comparisons of fields, joined by `&&` or `,`, by `||` or `#`, negated by
/// `!`, and grouped by parentheses.
struct DmCondition {
  private indirect enum Node {
    case comparison(DmField, Operator, String)
    case not(Node)
    case and(Node, Node)
    case or(Node, Node)
  }

  /// Longer ones come first, because they are tried in this order.
  private enum Operator: String, CaseIterable {
    case matches = "=~"
    case matchesNot = "!~"
    case differs = "!="
    case atLeast = ">="
    case atMost = "<="
    case equals = "="
    case more = ">"
    case less = "<"
  }

  private let root: Node
  /// The fields that it compares.
  let fieldNames: Set<String>

  /// Parses a condition.
  init(_ text: String) throws(DmFailure) {
    var parser = Parser(text: text)
    root = try parser.alternatives(depth: 0)
    parser.skipBlanks()
    guard parser.rest.isEmpty else { throw parser.fault() }
    fieldNames = parser.fieldNames
  }

  /// Whether the condition holds for a device.
  func holds(_ row: DmField.Row) -> Bool { Self.holds(root, row) }

  private static func holds(_ node: Node, _ row: DmField.Row) -> Bool {
    switch node {
    case .comparison(let field, let test, let value): compare(field, field.value(row), test, value)
    case .not(let node): !holds(node, row)
    case .and(let left, let right): holds(left, row) && holds(right, row)
    case .or(let left, let right): holds(left, row) || holds(right, row)
    }
  }

  private static func compare(_ field: DmField, _ found: String, _ test: Operator, _ value: String)
    -> Bool
  {
    if test == .matches || test == .matchesNot {
      return matches(found, pattern: value) == (test == .matches)
    }
    guard field.isNumber, let left = Int64(found), let right = Int64(value) else {
      return test == .equals ? found == value : test == .differs ? found != value : false
    }
    switch test {
    case .equals: return left == right
    case .differs: return left != right
    case .atLeast: return left >= right
    case .atMost: return left <= right
    case .more: return left > right
    case .less: return left < right
    case .matches, .matchesNot: return false
    }
  }

  private static func matches(_ text: String, pattern: String) -> Bool {
    var expression = unsafe regex_t()
    guard unsafe regcomp(&expression, pattern, REG_EXTENDED | REG_NOSUB) == 0 else { return false }
    defer { unsafe regfree(&expression) }
    return unsafe regexec(&expression, text, 0, nil, 0) == 0
  }

  private struct Parser {
    let text: String
    var rest: Substring
    var fieldNames: Set<String> = []
    /// Limits recursion; no real condition nests deeper.
    private let depthMax = 100

    init(text: String) {
      self.text = text
      rest = text[...]
    }

    func fault(_ lines: String...) -> DmFailure {
      DmFailure(
        lines: lines + [
          "Selection syntax error at '\(rest.isEmpty ? text : String(rest))'.",
          "Use 'help' for selection to get more help.",
        ])
    }

    mutating func skipBlanks() { rest = rest.drop { $0 == " " || $0 == "\t" } }

    mutating func take(_ words: String...) -> Bool {
      skipBlanks()
      guard let word = words.first(where: { rest.hasPrefix($0) }) else { return false }
      rest = rest.dropFirst(word.count)
      return true
    }

    mutating func alternatives(depth: Int) throws(DmFailure) -> Node {
      guard depth < depthMax else { throw fault() }
      var node = try conjunction(depth: depth)
      while take("||", "#") { node = .or(node, try conjunction(depth: depth)) }
      return node
    }

    private mutating func conjunction(depth: Int) throws(DmFailure) -> Node {
      var node = try term(depth: depth)
      while take("&&", ",") { node = .and(node, try term(depth: depth)) }
      return node
    }

    private mutating func term(depth: Int) throws(DmFailure) -> Node {
      guard depth < depthMax else { throw fault() }
      if take("!") { return .not(try term(depth: depth + 1)) }
      if take("(") {
        let node = try alternatives(depth: depth + 1)
        guard take(")") else { throw fault() }
        return node
      }
      skipBlanks()
      let name = String(rest.prefix { $0.isLetter || $0 == "_" })
      guard let field = DmField.named(name) else {
        throw fault("Unrecognised selection field: \(name)")
      }
      rest = rest.dropFirst(name.count)
      fieldNames.insert(field.name)
      skipBlanks()
      guard let test = Operator.allCases.first(where: { rest.hasPrefix($0.rawValue) }) else {
        throw fault()
      }
      rest = rest.dropFirst(test.rawValue.count)
      return .comparison(field, test, try value(isPattern: test == .matches || test == .matchesNot))
    }

    private mutating func value(isPattern: Bool) throws(DmFailure) -> String {
      skipBlanks()
      if let quote = rest.first, quote == "\"" || quote == "'" {
        rest = rest.dropFirst()
        guard let end = rest.firstIndex(of: quote) else { throw fault() }
        defer { rest = rest[rest.index(after: end)...] }
        return String(rest[..<end])
      }
      let value = rest.prefix { !" \t,&|#".contains($0) && (isPattern || $0 != ")") }
      rest = rest.dropFirst(value.count)
      return String(value)
    }
  }
}
