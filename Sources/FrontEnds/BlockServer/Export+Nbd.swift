import DataPath

// What NBD's clients learn of an export.
extension Export {
  func flags(structured: Bool) -> Nbd.TransmissionFlags {
    var flags: Nbd.TransmissionFlags = [.hasFlags, .sendFlush, .sendFUA, .canMultiConn, .sendCache]
    if structured { flags.insert(.sendDF) }
    if isReadOnly {
      flags.insert(.readOnly)
    } else {
      flags.formUnion([.sendWriteZeroes, .sendFastZero])
      if destination.takesDiscards { flags.insert(.sendTrim) }
    }
    return flags
  }

  /// The best size of requests, in bytes: a power of two from 4096 on.
  var preferredBytes: Int {
    let optimal = destination.optimalBytes
    guard optimal > 4096, optimal <= 32 << 20 else { return 4096 }
    // If it is no power of two, the largest that divides it.
    return max(4096, optimal & -optimal)
  }
}
