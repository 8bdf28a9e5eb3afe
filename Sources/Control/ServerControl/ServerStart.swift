import BlockIO
import CDMThin
import Glibc

/// A `dmthin serve` that this process started, and that outlives it.
public struct StartedServer {
  /// Its process id.
  public let process: Int32
  /// Its control socket.
  public let control: String

  /// Why a server did not start.
  public struct Failure: Error, CustomStringConvertible {
    /// A sentence, followed by the server's output.
    public let description: String
  }

  /// How long a server may take to start, in milliseconds.
  private static let patience = 60_000
  /// How long it runs without a device, a client or a command, in seconds.
  private static let idleSeconds = 2

  /// Starts a server without a pool, and waits until it accepts commands. Its sockets are `control`
  /// and `nbd` in `folder`, and its output goes to the file `log` there. It ends after two seconds
  /// without devices, clients and commands.
  /// - Parameters:
  ///   - program: the path of `dmthin`.
  ///   - folder: created if missing, together with its parent.
  public init(program: String, folder: String) throws(Failure) {
    control = "\(folder)/control"
    let log: Int32
    do throws(TrustedFolder.Fault) {
      // A server that is just ending removes its own log, which is another file.
      let folder = try TrustedFolder.made(folder)
      folder.remove("log")
      log = try folder.openFile("log", O_RDWR | O_CREAT | O_EXCL)
    } catch {
      throw Failure(description: "cannot start a server: \(error)")
    }
    defer { close(log) }
    // Started through a link like /proc/self/exe, the process would have the link's name.
    let full = unsafe realpath(program, nil)
    defer { unsafe free(full) }
    let words = unsafe [
      full.map { unsafe String(cString: $0) } ?? program, "serve", "--control", control,
      "--socket", "\(folder)/nbd", "--until-idle", "\(Self.idleSeconds)",
    ]
    var arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    process = unsafe arguments.withUnsafeMutableBufferPointer {
      unsafe dmthin_start_program($0.baseAddress, log)
    }
    unsafe arguments.forEach { unsafe free($0) }
    guard process > 0 else {
      throw Failure(
        description: unsafe "cannot start \(program): \(String(cString: strerror(-process)))")
    }
    try waitUntilReady(log)
  }

  private func waitUntilReady(_ log: Int32) throws(Failure) {
    let step = 10
    for _ in 0..<(Self.patience / step) {
      if unsafe access(control, F_OK) == 0,
        (try? UserspaceClient(path: control).driverVersion()) != nil
      {
        return
      }
      var status: Int32 = 0
      if unsafe waitpid(process, &status, WNOHANG) == process {
        throw Failure(description: "the new server has ended\(said(log))")
      }
      usleep(UInt32(step * 1000))
    }
    end()
    throw Failure(
      description:
        "the new server accepts no commands after \(Self.patience / 1000) seconds"
        + said(log))
  }

  /// The server's output so far, as the end of a sentence.
  private func said(_ log: Int32) -> String {
    let text = (try? WholeFile.bytes(of: log, path: "log", upTo: 1 << 16)).map {
      String(decoding: $0, as: UTF8.self)
    }
    let lines = (text ?? "").split(separator: "\n").joined(separator: "\n  ")
    return lines.isEmpty ? "" : ":\n  \(lines)"
  }

  /// Removes the log of a server that was started by `init`, once it has ended well. Does nothing
  /// for any other server. The folder stays, because the next server may be starting in it.
  /// - Parameter control: its control socket.
  public static func removeLog(control: String) {
    guard let slash = control.lastIndex(of: "/") else { return }
    let path = String(control[..<slash])
    guard let log = FileIdentity(descriptor: 2), log == FileIdentity(path: "\(path)/log"),
      let folder = try? TrustedFolder.own(path)
    else { return }
    folder.remove("log")
  }

  /// Ends the server, which has no devices yet.
  public func end() { kill(process, SIGTERM) }
}
