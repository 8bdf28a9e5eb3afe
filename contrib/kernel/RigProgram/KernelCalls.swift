import Glibc

/// Device-mapper by its ioctls: a dmsetup would take 50 ms in the rig.
final class KernelCalls {
  private enum Command: UInt {
    case create = 3
    case remove = 4
    case suspend = 6
    case load = 9
    case message = 14
  }

  /// The size of struct dm_ioctl.
  private static let headBytes = 312
  private let control = try? RigFile("/dev/mapper/control", O_RDWR)

  /// Returns "MAJOR:MINOR".
  @discardableResult
  private func call(
    _ command: Command, _ name: String, flags: UInt32 = 0, targets: UInt32 = 0, _ tail: [UInt8] = []
  ) throws -> String {
    guard let control else { throw RigError("/dev/mapper/control cannot be opened") }
    let room = Self.headBytes + tail.count + 4096
    let request = UnsafeMutableRawBufferPointer.allocate(byteCount: room, alignment: 8)
    defer { request.deallocate() }
    request.initializeMemory(as: UInt8.self, repeating: 0)
    request.storeBytes(of: 4, toByteOffset: 0, as: UInt32.self)  // version
    request.storeBytes(of: UInt32(room), toByteOffset: 12, as: UInt32.self)
    request.storeBytes(of: UInt32(Self.headBytes), toByteOffset: 16, as: UInt32.self)
    request.storeBytes(of: targets, toByteOffset: 20, as: UInt32.self)
    request.storeBytes(of: flags, toByteOffset: 28, as: UInt32.self)
    for (i, byte) in name.utf8.prefix(127).enumerated() { request[48 + i] = byte }
    for (i, byte) in tail.enumerated() { request[Self.headBytes + i] = byte }
    let number = 0xC138_FD00 | command.rawValue
    guard let head = request.baseAddress, ioctl(control.descriptor, number, head) == 0 else {
      throw RigError.system("\(command) of \(name)")
    }
    return Self.number(request.load(fromByteOffset: 40, as: UInt64.self))
  }

  /// The kernel's number of a device in words, as tables have it.
  static func number(_ device: UInt64) -> String {
    "\((device >> 8) & 0xfff):\((device & 0xff) | ((device >> 12) & 0xfff00))"
  }

  func load(_ name: String, sectors: UInt64, _ type: String, _ parameters: String) throws {
    var text = Array(parameters.utf8) + [0]
    while text.count % 8 != 0 { text.append(0) }
    // struct dm_target_spec: first sector, sectors, status, offset of the next, type.
    var tail = bytes(of: UInt64(0)) + bytes(of: sectors) + bytes(of: UInt32(0))
    tail += bytes(of: UInt32(40 + text.count))
    tail += Array(type.utf8) + Array(repeating: 0, count: 16 - type.utf8.count) + text
    do { try call(.load, name, targets: 1, tail) } catch {
      throw RigError("table '\(sectors) \(type) \(parameters)': \(error)")
    }
  }

  /// Returns "MAJOR:MINOR".
  func create(_ name: String, sectors: UInt64, _ type: String, _ parameters: String) throws
    -> String
  {
    let number = try call(.create, name)
    do {
      try load(name, sectors: sectors, type, parameters)
      try resume(name)
    } catch {
      try remove(name)
      throw error
    }
    return number
  }

  func suspend(_ name: String) throws { try call(.suspend, name, flags: 1 << 1) }
  func resume(_ name: String) throws { try call(.suspend, name) }
  func remove(_ name: String) throws { try call(.remove, name) }

  func message(_ pool: String, _ text: String) throws {
    // struct dm_target_msg: a sector and the text.
    do { try call(.message, pool, bytes(of: UInt64(0)) + Array(text.utf8) + [0]) } catch {
      throw RigError("'\(text)': \(error)")
    }
  }

  private func bytes<T: FixedWidthInteger>(of value: T) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
  }
}
