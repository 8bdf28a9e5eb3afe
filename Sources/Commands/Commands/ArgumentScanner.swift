@unsafe @preconcurrency import Cgetopt
@unsafe @preconcurrency import Glibc
import Synchronization

/// One parsed element of a command line.
enum ScannedArgument {
  case option(OptionSpec, value: String?)
  case operand(String)
}

/// Splits a command line with getopt_long(3), and rejects what that function accepts but these
/// commands do not: shortened long names, and arbitrary text for an optional value.
///
/// An optional value is one of:
/// - the text after `=`: `-m=5`, `--metadata-snap=5`;
/// - the text joined to the letter, if the option accepts it as a value: `-m5`, `-nshort`.
///   Otherwise the rest are further letters: `-mq`;
/// - the operand right after the option, if the option accepts it as a value and enough operands
///   remain for the command: `-m 5 DEV`, `DEV -m 5`. In `-m 5` alone, 5 is a file.
struct ArgumentScanner {
  private static let firstLongCode: Int32 = 256
  /// getopt_long keeps its state in global variables.
  private static let globals = Mutex<Void>(())

  private let options: [OptionSpec]
  private let strings: CStrings
  private var result: [ScannedArgument] = []
  /// The number of operands after `--`.
  private var operandsAfterEnd = 0

  private init(_ arguments: [String], options: [OptionSpec]) {
    self.options = options
    strings = CStrings(["-"] + arguments)
  }

  /// Parses `arguments`, which do not include the program's name, up to and including the first
  /// `--help`.
  /// - Parameter operandsMax: the number of operands that the command accepts.
  static func scan(_ arguments: [String], options: [OptionSpec], operandsMax: Int)
    throws(UsageError) -> [ScannedArgument]
  {
    try globals.withLock { _ throws(UsageError) in
      var scanner = ArgumentScanner(arguments, options: options)
      try scanner.run()
      scanner.takeOperandsAsValues(operandsMax: operandsMax)
      return scanner.result
    }
  }

  /// Turns operands into the values of the options with optional values before them. Empty operands
  /// do not count, because surplus empty operands are dropped later.
  private mutating func takeOperandsAsValues(operandsMax: Int) {
    var excess = -operandsMax
    for case .operand(let text) in result where !text.isEmpty { excess += 1 }
    var index = 1
    while index < result.count - operandsAfterEnd && excess > 0 {
      if case .option(let option, nil) = result[index - 1],
        case .optional(_, let kind) = option.value,
        case .operand(let text) = result[index], kind.fault(of: text) == nil
      {
        result[index - 1] = .option(option, value: text)
        result.remove(at: index)
        excess -= 1
      }
      index += 1
    }
  }

  private mutating func run() throws(UsageError) {
    let names = CStrings(options.map(\.name))
    var longs = unsafe options.indices.map { index in
      unsafe Cgetopt.option(
        name: names.base[index], has_arg: Self.argumentMode(options[index]), flag: nil,
        val: Self.firstLongCode + Int32(index))
    }
    unsafe longs.append(Cgetopt.option(name: nil, has_arg: 0, flag: nil, val: 0))
    // "-": operands come in order; ":": a missing value is distinguished from an unknown option.
    let shorts = options.reduce(into: "-:") { text, option in
      guard let short = option.short else { return }
      text += "\(short)\(String(repeating: ":", count: Int(Self.argumentMode(option))))"
    }
    // The scan may restart at a later element; `base` is the one before it.
    var base = 0
    optind = 0
    opterr = 0
    while true {
      let element = base + max(1, Int(optind))
      let code = unsafe getopt_long(
        Int32(strings.count - base), strings.base + base, shorts, longs, nil)
      if code == -1 {
        for index in base + Int(optind)..<strings.count {
          result.append(.operand(strings[index]))
          operandsAfterEnd += 1
        }
        return
      }
      let value = unsafe optarg.map { unsafe String(cString: $0) }
      if code == 1 {
        result.append(.operand(value ?? ""))
        continue
      }
      let isSeparate = base + Int(optind) == element + 2
      let found = try option(for: code, element: strings[element])
      if let rest = try append(found, value: value, isLong: code > 255, isSeparate: isSeparate) {
        // `-mq` with an optional value for `m`: the rest is a cluster of letters.
        strings.replace(element, with: "-" + rest)
        base = element - 1
        optind = 0
      }
      if found.name == OptionSpec.help.name { return }
    }
  }

  private static func argumentMode(_ option: OptionSpec) -> Int32 {
    switch option.value {
    case .flag: 0
    case .required: 1
    case .optional: 2
    }
  }

  /// The option that getopt_long found in `element`.
  private func option(for code: Int32, element: String) throws(UsageError) -> OptionSpec {
    let isMissing = code == Int32(UInt8(ascii: ":"))
    if element.hasPrefix("--") {
      let parts = element.dropFirst(2).split(
        separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      let name = parts.first.map { String($0) } ?? ""
      guard let option = options.first(where: { $0.name == name }) else {
        throw .unexpectedOption("--\(name)", similar: similarName(to: name))
      }
      if isMissing { throw .missingValue(option) }
      if code == Int32(UInt8(ascii: "?")) {
        throw .unexpectedValue(parts.count > 1 ? String(parts[1]) : "", option)
      }
      return option
    }
    let letter = isMissing || code == Int32(UInt8(ascii: "?")) ? optopt : code
    guard letter > 32, letter < 127, let scalar = Unicode.Scalar(UInt32(letter)) else {
      throw .unexpectedOption(element, similar: nil)
    }
    guard let option = options.first(where: { $0.short == Character(scalar) }) else {
      throw .unexpectedOption("-\(Character(scalar))", similar: nil)
    }
    if isMissing { throw .missingValue(option) }
    return option
  }

  /// Adds an option with its value. Returns the rest of a cluster that turned out not to be the
  /// option's value.
  private mutating func append(_ option: OptionSpec, value: String?, isLong: Bool, isSeparate: Bool)
    throws(UsageError) -> String?
  {
    var value = value
    var rest: String?
    switch option.value {
    case .flag:
      break
    case .required:
      if let text = value, isSeparate, text.count > 1, text.hasPrefix("-") {
        throw .missingValue(option, found: text)
      }
      if let text = value, !isLong, !isSeparate, text.hasPrefix("=") {
        value = String(text.dropFirst())
      }
    case .optional:
      if let text = value, !isLong {
        if text.hasPrefix("=") {
          value = String(text.dropFirst())
        } else if option.valueKind?.fault(of: text) != nil {
          value = nil
          rest = text
        }
      }
    }
    result.append(.option(option, value: value))
    return rest
  }

  /// The long option name most similar to the misspelled `name`.
  private func similarName(to name: String) -> String? {
    let names = options.filter { !$0.isHidden }.map(\.name)
    if name.count > 1, let longer = names.first(where: { $0.hasPrefix(name) }) { return longer }
    let ranked = names.map { ($0, distance(Array($0.utf8), Array(name.utf8))) }
    return ranked.min { $0.1 < $1.1 }.flatMap { $0.1 <= 2 ? $0.0 : nil }
  }
}

/// The edit distance: insertions, deletions and replacements between two words.
private func distance(_ left: [UInt8], _ right: [UInt8]) -> Int {
  var row = Array(0...right.count)
  for (i, a) in left.enumerated() {
    var diagonal = row[0]
    row[0] = i + 1
    for (j, b) in right.enumerated() {
      let above = row[j + 1]
      row[j + 1] = min(above + 1, row[j] + 1, diagonal + (a == b ? 0 : 1))
      diagonal = above
    }
  }
  return row[right.count]
}

/// An array of C strings that ends with a null pointer, as `argv` does.
@safe private final class CStrings {
  let count: Int
  let base: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

  init(_ strings: [String]) {
    count = strings.count
    unsafe base = .allocate(capacity: strings.count + 1)
    for (index, string) in strings.enumerated() { unsafe base[index] = strdup(string) }
    unsafe base[strings.count] = nil
  }

  deinit {
    for index in 0..<count { unsafe free(base[index]) }
    unsafe base.deallocate()
  }

  subscript(index: Int) -> String { unsafe base[index].map { unsafe String(cString: $0) } ?? "" }

  func replace(_ index: Int, with string: String) {
    unsafe free(base[index])
    unsafe base[index] = strdup(string)
  }
}
