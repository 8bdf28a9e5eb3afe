/// So much memory for all who share it.
public final class MemoryBudget {
  /// Bytes that are left.
  public private(set) var left: Int
  private let all: Int

  /// A budget of `bytes`.
  public init(_ bytes: Int) { (left, all) = (bytes, bytes) }

  /// Bytes that are in use; with what may always be taken they can be more than there were.
  public var used: Int { all - left }

  /// Takes `bytes`, if there are as many or they may be taken in any case.
  public func take(_ bytes: Int, always: Bool = false) -> Bool {
    guard always || bytes <= left else { return false }
    left -= bytes
    return true
  }

  /// Gives `bytes` back.
  public func give(_ bytes: Int) { left += bytes }
}
