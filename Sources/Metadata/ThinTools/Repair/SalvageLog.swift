/// What a salvage has to say.
final class SalvageLog {
  /// A line for everything that could not be saved, and for every guess.
  private(set) var lines: [String] = []
  /// The same by device.
  var report = RepairReport()

  func say(_ line: String) { lines.append(line) }

  /// Takes in what another one has.
  func take(_ other: SalvageLog) {
    lines += other.lines
    report = other.report
  }
}
