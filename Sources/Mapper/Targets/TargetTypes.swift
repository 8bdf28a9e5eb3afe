extension TargetType {
  /// All types, the most recent first, one per line.
  public static let all: [TargetType] = [
    .snapshotMerge,
    .snapshotOrigin,
    .snapshot,
    .delay,
    .flakey,
    .thin,
    .thinPool,
    .zero,
    .striped,
    .linear,
    .error,
  ]
}
