/// `crypt CIPHER KEY IVOFFSET DEVICE OFFSET [COUNT OPTION...]`: an encrypted view of another
/// device.
public struct CryptTarget: TargetGrammar {
  /// The type's name.
  public static let type = "crypt"
  /// The devices of the target.
  public enum Role: Hashable, Sendable { case data }

  /// The key, as written.
  public enum Key: Hashable, Sendable {
    /// `-`.
    case none
    /// Hexadecimal digits.
    case digits(String)
    /// `:BYTES:KIND:DESCRIPTION`, without the first colon: a key of the kernel's keyring.
    case keyring(String)

    init(_ word: String) {
      if word == "-" {
        self = .none
      } else if word.utf8.first == UInt8(ascii: ":") {
        self = .keyring(String(word.dropFirst()))
      } else {
        self = .digits(word)
      }
    }

    /// The key in a table line.
    public var text: String {
      switch self {
      case .none: "-"
      case .digits(let digits): digits
      case .keyring(let name): ":\(name)"
      }
    }

    /// The key with zeros in place of its digits, which must stay secret.
    public var hiddenText: String {
      if case .digits(let digits) = self { return String(repeating: "0", count: digits.utf8.count) }
      return text
    }
  }

  /// Options without a value. The kernel prints them in this order.
  public enum Flag: String, CaseIterable, Sendable {
    case allowDiscards = "allow_discards"
    case sameCPU = "same_cpu_crypt"
    case submitFromCryptCPUs = "submit_from_crypt_cpus"
    case noReadWorkqueue = "no_read_workqueue"
    case noWriteWorkqueue = "no_write_workqueue"
  }

  /// The highest number of options.
  public static let optionsMax: UInt32 = 8

  /// Cipher, chaining and initialisation vector, like `aes-xts-plain64`.
  public var cipher: String
  /// The key.
  public var key: Key
  /// Added to sector numbers for the initialisation vector.
  public var ivOffset: UInt64
  /// Device and first sector.
  public var destination: DeviceStart
  /// Options without a value.
  public var flags: Set<Flag> = []
  /// `integrity:BYTES:KIND`, without the first word.
  public var integrity: String?
  /// Bytes encrypted as one unit, a power of two from 512 to 4096.
  public var sectorBytes: UInt32?
  /// Whether sector numbers count units of `sectorBytes`.
  public var usesLargeSectorNumbers = false

  /// An encrypted device without options.
  public init(cipher: String, key: Key, ivOffset: UInt64, destination: DeviceStart) {
    self.cipher = cipher
    self.key = key
    self.ivOffset = ivOffset
    self.destination = destination
  }

  /// Parses a table line.
  public init(_ line: TableLine, opener: DeviceOpener<Role>?) throws(TargetError) {
    let words = KernelText.parameterWords(line.parameters)
    try self.init(words, length: line.length, opener: opener)
  }

  /// Parses the words of a table line of `length` sectors. Whether the cipher exists and the key
  /// fits it is not checked.
  public init(_ words: [String], length: UInt64? = nil, opener: DeviceOpener<Role>? = nil)
    throws(TargetError)
  {
    guard words.count >= 5 else { throw TargetError("Not enough arguments") }
    let key = Key(words[1])
    try Self.check(key)
    self.init(
      cipher: words[0], key: key, ivOffset: 0,
      destination: DeviceStart(device: words[3], sector: 0))
    try parseOptions(ArgumentList(Array(words.dropFirst(5))))
    let unit = UInt64(sectorBytes ?? 512) / 512
    if let length, !length.isMultiple(of: unit) {
      throw TargetError("Device size is not multiple of sector_size feature")
    }
    guard !cipher.isEmpty, cipher.utf8.first != UInt8(ascii: "-") else {
      throw TargetError("Bad cipher specification")
    }
    guard let ivOffset = KernelText.scanned(words[2]), ivOffset.isMultiple(of: unit) else {
      throw TargetError("Invalid iv_offset sector")
    }
    self.ivOffset = ivOffset
    try DeviceRequest(words[3], Role.data).open(by: opener, orSay: "Device lookup failed")
    guard let offset = KernelText.scanned(words[4]) else {
      throw TargetError("Invalid device sector")
    }
    destination.sector = offset
  }

  private static func check(_ key: Key) throws(TargetError) {
    guard case .keyring(let name) = key else { return }
    let parts = name.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
    guard parts.count == 3, KernelText.scanned32(String(parts[0])) != nil, !parts[1].isEmpty,
      !parts[2].isEmpty
    else { throw TargetError("Cannot parse key size") }
  }

  private mutating func parseOptions(_ arguments: ArgumentList) throws(TargetError) {
    var arguments = arguments
    guard arguments.count > 0 else { return }
    var left = try arguments.groupCount(
      max: Self.optionsMax, orSay: "Invalid number of feature args")
    while left > 0 {
      guard let word = arguments.shift() else {
        throw TargetError("Not enough feature arguments")
      }
      left -= 1
      if let flag = Flag.allCases.first(where: { KernelText.isSame(word, $0.rawValue) }) {
        flags.insert(flag)
      } else if KernelText.isSame(word, "iv_large_sectors") {
        usesLargeSectorNumbers = true
      } else if let value = Self.value(of: word, named: "sector_size:") {
        guard let bytes = KernelText.scanned32(value), (512...4096).contains(bytes),
          bytes & (bytes - 1) == 0
        else { throw TargetError("Invalid feature value for sector_size") }
        sectorBytes = bytes
      } else if let value = Self.value(of: word, named: "integrity:") {
        let parts = value.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let bytes = KernelText.scanned32(String(parts[0])), bytes > 0,
          ["aead", "none"].contains(parts[1])
        else { throw TargetError("Invalid integrity arguments") }
        integrity = value
      } else {
        throw TargetError("Invalid feature arguments")
      }
    }
  }

  private static func value(of word: String, named name: String) -> String? {
    word.hasPrefix(name) ? String(word.dropFirst(name.count)) : nil
  }

  /// As the kernel prints it, with the key.
  public var parameters: String { parameters(key: key.text) }

  /// As dmsetup prints it by default, without the key.
  public var hiddenParameters: String { parameters(key: key.hiddenText) }

  private func parameters(key: String) -> String {
    var options = Flag.allCases.filter(flags.contains).map(\.rawValue)
    if let integrity { options.append("integrity:\(integrity)") }
    if let sectorBytes { options.append("sector_size:\(sectorBytes)") }
    if usesLargeSectorNumbers { options.append("iv_large_sectors") }
    let count = options.isEmpty ? [] : ["\(options.count)"]
    return ([cipher, key, "\(ivOffset)", destination.parameters] + count + options)
      .joined(separator: " ")
  }
}
