import DataPath
import EventLoop

/// Limits the work in a pass of the loop. What is beyond the limit is done in later passes, in turn, so that
/// no client waits for others for longer than a few milliseconds.
///
/// Work is counted in units, which are about a microsecond each.
final class Turns {
  /// What a connection does in a pass.
  static let connectionUnits = 64
  /// What all of them do in a pass until those have to wait who have had their units in an earlier one,
  /// then those who have units left, and then those of them who have waited.
  private static let limits = (heavy: 1000, all: 2000, light: 3000)

  /// What is left over for later passes.
  private enum Job {
    /// A connection that goes on with what it has received, or sends more.
    case connection(Connection)
    /// The next piece of a request.
    case piece(Connection, slot: Int)
  }

  private let loop: EventLoop
  /// Of those who had not had their units, and of those who had.
  private var light: [Job] = []
  private var heavy: [Job] = []
  /// Those whose turn it is; empty otherwise, and kept for its memory.
  private var due: [Job] = []
  private var pass: UInt64 = .max
  private var spent = 0
  /// A handshake of TLS was gone on with in this pass.
  private var hadHandshake = false
  private lazy var timer = LoopTimer { [unowned self] in run() }

  init(_ loop: EventLoop) { self.loop = loop }

  private func look() {
    guard pass != loop.passes else { return }
    pass = loop.passes
    spent = 0
    hadHandshake = false
  }

  /// Whether there is anything left to do in this pass.
  var hasUnits: Bool {
    look()
    return spent < Self.limits.all
  }

  /// So much was done.
  @inline(__always) func spend(_ units: Int) { spent &+= units }

  /// Whether a step of a handshake, which takes milliseconds, can be made in this pass; it is then.
  func takeHandshake() -> Bool {
    look()
    guard !hadHandshake, spent < Self.limits.all else { return false }
    hadHandshake = true
    spent += 1000
    return true
  }

  /// Has `connection.takeTurn` called later, before those who have had their units if it has not.
  func later(_ connection: Connection, isLight: Bool) {
    if isLight {
      light.append(.connection(connection))
    } else {
      heavy.append(.connection(connection))
    }
    if !timer.isSet { loop.set(timer, after: 0) }
  }

  /// Has `connection.continuePiece` called later.
  func later(_ connection: Connection, slot: Int) {
    heavy.append(.piece(connection, slot: slot))
    if !timer.isSet { loop.set(timer, after: 0) }
  }

  private func run() {
    run(\.light, Self.limits.light)
    run(\.heavy, Self.limits.heavy)
    if !(light.isEmpty && heavy.isEmpty), !timer.isSet { loop.set(timer, after: 0) }
  }

  private func run(_ jobs: ReferenceWritableKeyPath<Turns, [Job]>, _ limit: Int) {
    guard !self[keyPath: jobs].isEmpty else { return }
    let ready = due
    due = self[keyPath: jobs]
    self[keyPath: jobs] = ready
    for (index, job) in due.enumerated() {
      look()
      guard spent < limit else {
        self[keyPath: jobs].insert(contentsOf: due[index...], at: 0)
        break
      }
      switch job {
      case .connection(let connection): connection.takeTurn()
      case .piece(let connection, let slot): connection.continuePiece(slot)
      }
    }
    due.removeAll(keepingCapacity: true)
  }
}
