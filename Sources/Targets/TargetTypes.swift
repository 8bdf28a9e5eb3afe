extension TargetType {
  /// Every type that there is, the most recent first: a line for each.
  public static let all: [TargetType] = [
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
