import BlockIO
import CDMThin
import Glibc
import ThinTools

/// `thin_repair --in-place` and `--apply-undo`: which files they take.
enum InPlaceRepair {
  /// There is a device, and it may be metadata.
  static func require(_ device: String?) throws {
    guard let device else {
      throw UsageError("the following required arguments were not provided:\n  <DEVICE>")
    }
    try InputChecks.requireMetadata(device)
    try InputChecks.requireOutput(device)
  }

  /// Repairs the input of a request, and keeps in `undo` what is overwritten.
  static func run(
    _ request: RepairRequest, _ undo: String, _ console: Console,
    onSize: (_ needed: UInt64, _ available: UInt64) -> Void
  ) throws -> RepairResult {
    let device = try open(request.input)
    warnOfSize(device, console)
    try requireElsewhere(undo, than: request.input)
    let kept = try interrupted(undo)
    if kept != nil {
      console.warning(
        "\(undo) is there: what a repair has done to \(request.input) is taken back first")
    }
    return try ThinRepair.runInPlace(
      device, options: request.options, kept: kept, progress: console.makeProgress(),
      onSize: onSize
    ) { write throws(ToolError) in
      try keep(undo, beside: request.input, write)
    }
  }

  private static func open(_ device: String, reading inputs: [String] = []) throws(ToolError)
    -> FileDevice
  {
    do throws(OutputError) {
      return try MetadataOutput.open(device, reading: inputs)
    } catch {
      throw ToolError(error)
    }
  }

  /// What an earlier repair has kept; nil where there is nothing.
  private static func interrupted(_ undo: String) throws -> FileDevice? {
    var info = stat()
    guard unsafe stat(undo, &info) == 0, info.st_size > 0 else { return nil }
    guard info.st_mode & S_IFMT == S_IFREG else {
      throw ToolError(
        .precious, "\(undo) is no regular file: what is kept has to be put in place as a whole")
    }
    return try FileDevice(path: undo, access: .readOnly, exclusive: false)
  }

  /// Writes what is kept, and returns when it is durable.
  private static func keep(
    _ undo: String, beside device: String,
    _ write: (ByteSink) throws(BlockIOError) -> Void
  ) throws(ToolError) {
    var rules = TextOutput.Rules()
    rules.inputs = [device]
    let output = try InputChecks.textOutput(undo, rules)
    guard output.isAside else {
      throw ToolError(
        .precious, "\(undo) is no regular file: what is kept has to be put in place as a whole")
    }
    do throws(BlockIOError) {
      try write(output.sink)
      try output.commit()
    } catch {
      throw ToolError(error)
    }
  }

  /// The file does not lie on the device, nor on a file system that is on it.
  private static func requireElsewhere(_ undo: String, than device: String) throws(ToolError) {
    guard let target = FileIdentity(path: device) else { return }
    var info = stat()
    let folder = undo.lastIndex(of: "/").map { String(undo[...$0]) } ?? "."
    let isThere = unsafe stat(undo, &info) == 0 || stat(folder, &info) == 0
    guard isThere else { return }
    let number = info.st_dev
    let place = FileIdentity(
      blockDevice: UInt32(gnu_dev_major(number)), UInt32(gnu_dev_minor(number)))
    guard FileIdentity(path: undo) == target || place.overlaps(target) else { return }
    throw ToolError(
      .precious, "\(undo) lies on \(device), which is to be overwritten: name a file elsewhere")
  }

  /// Takes back a repair in place; returns the exit status.
  static func takeBack(from undo: String, _ device: String?, _ console: Console) throws -> Int32 {
    guard let device else {
      throw UsageError("the following required arguments were not provided:\n  <DEVICE>")
    }
    try InputChecks.requireInput(undo)
    try InputChecks.requireOutput(device)
    let kept = try FileDevice(path: undo, access: .readOnly, exclusive: false)
    let outcome = try ThinRepair.undo(
      of: open(device, reading: [undo]), from: kept, progress: console.makeProgress())
    switch outcome {
    case .restored(let blocks):
      try console.line("\(device) is again what it was; \(blocks) blocks were kept.")
    case .nothingToDo:
      try console.line("\(device) is what it was before the repair: there is nothing to do.")
    }
    return ExitStatus.ok.rawValue
  }
}
