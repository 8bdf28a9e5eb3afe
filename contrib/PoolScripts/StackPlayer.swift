import DeviceMapper
import Glibc
import Targets

/// Plays one script of stacks of devices in a world, and collects the results.
final class StackPlayer {
  let world: any PoolWorld
  /// Every line with its result.
  private(set) var results: [String] = []
  /// Called with every line before it is played.
  var willPlay: (String) -> Void = { _ in }
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
  /// The buffers of started requests.
  private var keptBuffers: [UnsafeMutableRawBufferPointer] = []

  /// Sectors of disk B that hold what is not defined.
  var undefined: [Range<Int>] = []
  /// Files with what is on the disks at first; nil for the usual pattern.
  var images: (a: String, b: String)?
  /// Names of devices that have had stripes in a table.
  private var striped: Set<String> = []

  init(_ world: any PoolWorld) { self.world = world }

  deinit {
    buffer.deallocate()
    for kept in keptBuffers { kept.deallocate() }
  }

  private var dm: any DeviceMapperBackend { world.backend }

  /// Plays every line, and removes everything.
  /// - Parameters:
  ///   - first: the line with the disks' size, where the lines are a later part of a script.
  ///   - isEnd: whether the lines are the last part.
  func play(_ lines: [String], first: String? = nil, isEnd: Bool = true) throws(PlayerError) {
    defer { world.close() }
    if let first { try carryOut(ScriptLine(first)) }
    for line in lines
    where !line.isEmpty && line.first != "#" && line != "stacks" && line != "cut" {
      willPlay(line)
      results.append(line)
      do throws(PlayerError) {
        try carryOut(ScriptLine(line))
      } catch {
        takeDown()
        throw error
      }
    }
    noteInvalidStores()
    takeDown()
    guard isEnd else { return }
    results.append("at the end:")
    dump()
  }

  private func takeDown() {
    // From the top down, because lower devices are open.
    for _ in 0..<8 {
      for device in (try? dm.list()) ?? [] {
        try? dm.remove(.name(device.name), deferred: false, retry: false)
      }
    }
    let left = (try? dm.list().count) ?? 0
    if left > 0 { tell("\(left) devices stay") }
  }

  private func tell(_ text: String) { results.append("    \(text)") }

  private func carryOut(_ line: ScriptLine) throws(PlayerError) {
    let name = DeviceReference.name(line.word(0))
    switch line.verb {
    case "disks":
      try world.makeDevices(metadataBytes: line.number(0) * 512, dataBytes: line.number(0) * 512)
      if let images {
        try copyFile(images.a, to: world.metadataPath)
        try copyFile(images.b, to: world.dataPath)
      }
    case "make", "load":
      _ = world.takeRefusals()
      if line.words.contains("striped") { striped.insert(line.word(0)) }
      attempt { () throws(DeviceMapperError) in
        let table = table(line)
        if line.verb == "load" { return try dm.load(name, table, readOnly: false) }
        try dm.create(DeviceCreation(name: line.word(0), table: table))
      }
      let isRefused = results.last != "    ok"
      if let words = world.takeRefusals().first, isRefused { tell(Self.words(words)) }
    case "suspend":
      attempt { () throws(DeviceMapperError) in
        try dm.suspend(name, line.words.last == "noflush" ? .noFlush : [])
      }
    case "resume":
      attempt { () throws(DeviceMapperError) in try dm.resume(name, [], node: NodeOptions()) }
    case "remove":
      noteInvalidStores()
      attempt { () throws(DeviceMapperError) in
        try dm.remove(name, deferred: false, retry: false)
      }
    case "write", "writefua", "read", "discard", "flush", "zero": transfer(line)
    case "merged": awaitMerge(name)
    case "hold": hold(line)
    case "finish": for result in world.finish() { tell(result.map(errorName) ?? "waits") }
    case "status", "gettable", "info", "deps": query(line, name)
    case "dump":
      // What no operation waits for: the note that a snapshot is invalid.
      world.waitShortly()
      dump()
    default: throw .fault("'\(line.text)' is not an operation")
    }
  }

  /// Returns "ok", or the name of the error.
  private func attempt(_ body: () throws(DeviceMapperError) -> Void) {
    do throws(DeviceMapperError) {
      try body()
      tell("ok")
    } catch {
      tell(errorName(error.code))
    }
  }

  /// `NAME START LENGTH TYPE WORD...[, ...]`: `A` and `B` are the disks, `@NAME` is a device.
  private func table(_ line: ScriptLine) -> [TableLine] {
    line.words.dropFirst().joined(separator: " ").split(separator: ",").map { text in
      let words = text.split(separator: " ").map { word in
        word == "A"
          ? world.metadataName
          : word == "B"
            ? world.dataName
            : word.first == "@" ? "/dev/mapper/\(word.dropFirst())" : String(word)
      }
      return TableLine(
        start: UInt64(words.first ?? "") ?? 0, length: UInt64(words.dropFirst().first ?? "") ?? 0,
        type: words.count > 2 ? words[2] : "",
        parameters: words.dropFirst(3).joined(separator: " "))
    }
  }

  /// A refusal without parts that differ between worlds: device numbers, the type in front, the
  /// error's name.
  private static func words(_ text: String) -> String {
    if let range = text.split(separator: " too small for target").last,
      range.utf8.count < text.utf8.count
    {
      return "too small for target\(range)"
    }
    var text = Substring(text)
    if let end = text.lastIndex(of: "("), text.hasSuffix(")"), text[end...].hasPrefix("(-E") {
      text = text[..<end].dropLast()
    }
    while let colon = text.firstIndex(of: ":"), !text[..<colon].contains(" "),
      let next = text.index(colon, offsetBy: 2, limitedBy: text.endIndex),
      text[colon..<next] == ": "
    {
      text = text[next...]
    }
    return String(text)
  }

  // MARK: - I/O

  private func request(
    _ line: ScriptLine, _ verb: String, at: Int, _ buffer: UnsafeMutableRawBufferPointer
  )
    -> ScriptRequest?
  {
    let kind: ScriptRequest.Kind =
      switch verb {
      case "write", "zero": .write
      case "writefua": .durableWrite
      case "discard": .discard
      case "flush": .flush
      default: .read
      }
    let reference = DeviceReference.name(line.word(0))
    guard let info = try? dm.info(reference, []), !info.isSuspended else { return nil }
    if kind == .flush { return ScriptRequest(kind: kind, device: line.word(0), buffer: buffer) }
    let (first, count) = (line.number(at), line.number(at + 1))
    guard let last = (try? dm.table(reference, []))?.lines.last, count > 0,
      UInt64(first + count) <= last.start + last.length, count * 512 <= buffer.count
    else { return nil }
    let bytes = UnsafeMutableRawBufferPointer(rebasing: buffer[0..<count * 512])
    if verb == "zero" {
      bytes.initializeMemory(as: UInt8.self, repeating: 0)
    } else if kind == .write || kind == .durableWrite {
      fillPattern(bytes, tag: UInt64(line.number(at + 2)), sector: first)
    }
    return ScriptRequest(
      kind: kind, device: line.word(0), offset: first * 512, buffer: buffer,
      byteCount: count * 512)
  }

  private func transfer(_ line: ScriptLine) {
    guard let request = request(line, line.verb, at: 1, buffer) else { return tell("skipped") }
    let result = world.perform(request)
    tell(errorName(result))
    guard request.kind == .read, result == 0 else { return }
    var digest = ScriptDigest()
    digest.add(UnsafeRawBufferPointer(rebasing: buffer[0..<request.byteCount]))
    tell(digest.text)
  }

  /// Waits until everything is merged, or the merge has failed.
  private func awaitMerge(_ device: DeviceReference) {
    for _ in 0..<1000 {
      let line = (try? dm.status(device, .noFlush))?.lines.first
      guard line?.type == SnapshotTarget.mergeType,
        case .working(let usage, let metadata)? = SnapshotStatus(line?.parameters ?? ""),
        usage.used != metadata
      else { return tell(line?.parameters ?? "none") }
      world.waitShortly()
    }
    tell("does not end")
  }

  /// `NAME COUNT VERB [SECTOR COUNT TAG]`: starts a request that a delay delays, until there are
  /// COUNT.
  private func hold(_ line: ScriptLine) {
    let kept = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(4096, line.number(4) * 512), alignment: 4096)
    keptBuffers.append(kept)
    guard let request = request(line, line.word(2), at: 3, kept) else { return tell("skipped") }
    world.start(request)
    for _ in 0..<500 {
      let status = (try? dm.status(.name(line.word(0)), .noFlush))?.lines.first?.parameters ?? ""
      if status.split(separator: " ").compactMap({ Int($0) }).reduce(0, +) >= line.number(1) {
        return tell("held")
      }
      world.waitShortly()
    }
    tell("not held")
  }

  // MARK: - Queries

  private func query(_ line: ScriptLine, _ device: DeviceReference) {
    do throws(DeviceMapperError) {
      switch line.verb {
      case "info":
        guard let info = try dm.info(device, []) else { return tell("none") }
        // The kernel raises one event for all errors of stripes that occur before its worker runs.
        let event = striped.contains(line.word(0)) ? "some" : "\(info.eventNumber)"
        tell(
          "event \(event) open \(info.openCount) targets \(info.targetCount)"
            + (info.isSuspended ? " suspended" : "") + (info.hasLiveTable ? " live" : "")
            + (info.hasInactiveTable ? " inactive" : "") + (info.isReadOnly ? " read-only" : ""))
      case "deps":
        guard let below = try dm.dependencies(device, []) else { return tell("none") }
        let names = Dictionary(try dm.list().map { ($0.number, $0.name) }) { name, _ in name }
        tell(below.devices.map { names[$0] ?? "disk" }.joined(separator: " ") + ".")
      default:
        let table = try line.verb == "status" ? dm.status(device, []) : dm.table(device, [])
        guard let table else { return tell("none") }
        for line in table.lines {
          let words = "\(line)".split(separator: " ", omittingEmptySubsequences: false)
          tell(words.map { $0.contains(":") ? "NUMBER" : $0 }.joined(separator: " ") + ".")
        }
      }
    } catch {
      tell(errorName(error.code))
    }
  }

  /// Finds the exception stores that have become invalid. What their chunks of data and records hold is not
  /// defined: it depends on how far copies were that had begun.
  private func noteInvalidStores() {
    for device in (try? dm.list()) ?? [] {
      let reference = DeviceReference.name(device.name)
      guard let line = (try? dm.status(reference, .noFlush))?.lines.first,
        line.type == SnapshotTarget.type || line.type == SnapshotTarget.mergeType,
        line.parameters == "Invalid",
        let table = (try? dm.table(reference, []))?.lines.first,
        let target = try? SnapshotTarget(table), target.chunkSectors > 0,
        let cow = (try? dm.list())?.first(where: { "\($0.number)" == target.cow }),
        let slice = (try? dm.table(.name(cow.name), []))?.lines.first,
        let linear = try? LinearTarget(slice)
      else { continue }
      let start = Int(linear.source.sector)
      let range = start + Int(target.chunkSectors)..<start + Int(slice.length)
      if !undefined.contains(range) { undefined.append(range) }
    }
  }

  /// Digests of the disks' content, 4 KiB at a time.
  private func dump() {
    noteInvalidStores()
    for (name, path) in [("A", world.metadataPath), ("B", world.dataPath)] {
      let report = StateReport(metadataPath: path, dataPath: path)
      let blocks = report.dataDigests(blockBytes: 4096) { bytes, offset in
        for range in name == "B" ? undefined : [] {
          let part = (range.lowerBound * 512..<range.upperBound * 512)
            .clamped(to: offset..<offset + bytes.count)
          if part.isEmpty { continue }
          UnsafeMutableRawBufferPointer(
            rebasing: bytes[part.lowerBound - offset..<part.upperBound - offset]
          ).initializeMemory(as: UInt8.self, repeating: 0)
        }
      }
      for block in blocks { tell("\(name) \(block)") }
    }
  }
}
