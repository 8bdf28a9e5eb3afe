/// What is salvaged of a damaged pool.
public struct SalvageOptions: Equatable, Sendable {
  /// Which generation; nil for the superblock's, or a whole one that is conclusively newer.
  public var generation: Generation?
  /// Values to use instead of the superblock's.
  public var overrides = SuperblockOverrides()

  /// Also devices that a sound part of the details tree does not list: they have been deleted.
  public var includesDeleted = false

  /// What is done with parts of mapping trees that fit, but not for certain.
  public var choice = OrphanChoice.none

  /// Lost and doubtful ranges that the report keeps of a device.
  var rangesMax = 1000
  /// Whether devices are saved whose ids are larger than those that the kernel makes.
  var keepsLargeIDs = false

  /// Whatever can be saved.
  public init() {}
}
