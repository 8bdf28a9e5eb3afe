/// When to check metadata before serving it for writing.
public enum MetadataCare: String, CaseIterable, Sendable {
  /// Checked, unless a server left it sound and it was not written since.
  case auto
  /// Always checked.
  case full
  /// Never checked.
  case none
}
