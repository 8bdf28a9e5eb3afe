extension DiskKind {
  /// All kinds, one per line.
  public static let all: [DiskKind] = [
    .file,
    .memory,
    .null,
  ]
}
