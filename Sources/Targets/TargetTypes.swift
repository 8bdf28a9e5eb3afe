extension TargetType {
  /// Every type that there is, the most recent first: a line for each.
  public static let all: [TargetType] = [
    .delay,
    .thin,
    .thinPool,
    .zero,
    .striped,
    .linear,
    .error,
  ]
}
