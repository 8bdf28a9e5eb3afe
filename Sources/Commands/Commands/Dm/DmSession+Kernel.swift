import DeviceMapper
import Glibc

// Verbs for which only the kernel's device-mapper has commands: measurements, geometry, stored
// names.
extension DmSession {
  /// The backend's kernel-only commands.
  var kernel: any KernelOnlyCommands {
    get throws {
      guard let kernel = try backend as? any KernelOnlyCommands else {
        throw DmFailure.failed("Only the kernel's device-mapper does that.")
      }
      return kernel
    }
  }

  func measure(_ operands: [String]) throws {
    try each(operands) { device in
      guard let table = try kernel.measurements(device, verboseOptions) else {
        throw doesNotExist()
      }
      try show(table)
    }
  }

  func setGeometry(_ operands: [String]) throws {
    guard operands.count == 5 else { throw DmFailure.failed("No device specified.") }
    try kernel.setGeometry(
      .name(operands[0]), cylinders: operands[1], heads: operands[2], sectors: operands[3],
      start: operands[4])
  }

  // MARK: - mangle

  /// `mangle`: stores names as the mode says. Continues after a device that cannot be renamed.
  func mangle(_ operands: [String]) throws {
    let mode = try backend.settings.nameMangling
    try backend.settings.nameMangling = .none
    defer { try? backend.settings.nameMangling = mode }
    var hasFailed = false
    if let device = optionalDevice(operands) {
      hasFailed = try !mangle(device, mode)
    } else {
      let entries = try backend.list()
      if entries.isEmpty { try print("No devices found\n") }
      for entry in entries where try !mangle(.name(entry.name), mode) { hasFailed = true }
    }
    if hasFailed { throw DmFailure.failed() }
  }

  /// Mangles one device's name. Prints errors; returns whether it succeeded.
  private func mangle(_ device: DeviceReference, _ mode: NameMangling) throws -> Bool {
    guard let info = try backend.info(device, queryOptions) else { return false }
    let (name, uuid) = (info.name, info.uuid)
    guard let newName = stored(name, mode, "name"), let newUUID = stored(uuid, mode, "uuid") else {
      return false
    }
    guard newUUID == uuid else {
      console.note("\(name): \(uuid): UUID in incorrect form. ")
      console.note("Unable to change device UUID. The device must be deactivated first.")
      return false
    }
    guard newName != name else {
      let words =
        uuid.isEmpty
        ? "[no UUID]: name already in correct form"
        : "\(uuid): name and UUID already in correct form"
      try print("\(name): \(words)\n")
      return true
    }
    try print("\(name): renaming to \(newName)\n")
    do {
      try backend.rename(.name(name), to: newName)
      return true
    } catch let error as DeviceMapperError {
      console.note(error.description)
      return false
    }
  }

  /// The text as the mode stores it; text that is already mangled stays. Prints an error and
  /// returns nil if it is partly mangled.
  private func stored(_ text: String, _ mode: NameMangling, _ what: String) -> String? {
    guard mode != .none else { return NameMangling.decoded(text) }
    do throws(NameMangling.MixedName) {
      return try NameMangling.auto.mangled(text)
    } catch {
      console.note(
        "The \(what) \"\(text)\" contains mixed mangled and unmangled characters "
          + "or it's already mangled improperly.")
      console.note("Failed to mangle device \(what) \"\(text)\".")
      return nil
    }
  }
}
