import BlockIO
import DeviceMapper
import Glibc
import PoolManager
import ServerControl
import ThinTools

/// The device-mapper in which a pool is active, or will be.
struct PoolSite {
  let manager: PoolManager
  /// The server; nil stands for the kernel.
  let server: (client: UserspaceClient, control: String)?

  /// Its name as a value of `--backend`.
  var backend: String { server == nil ? "kernel" : "userspace" }

  func has(_ name: String) throws(DeviceMapperError) -> Bool {
    try manager.backend.info(.name(name), []) != nil
  }

  /// The NBD address of a server's device; nil for the kernel, or if the server has none.
  func address(of device: String) -> String? {
    guard let server, let name = try? server.client.listeners().first else { return nil }
    let export = device.utf8.map { byte in
      let isPlain =
        (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte)
        || (0x61...0x7a).contains(byte) || "-._~".utf8.contains(byte)
      let hex = String(byte, radix: 16, uppercase: true)
      return isPlain
        ? String(UnicodeScalar(byte)) : "%\(hex.count == 1 ? "0" : "")\(hex)"
    }.joined()
    return name.hasPrefix("/") ? "nbd+unix:///\(export)?socket=\(name)" : "nbd://\(name)/\(export)"
  }
}

/// Finds the device-mapper that the command line selects: the kernel's, or that of a `dmthin
/// serve`.
struct PoolSites {
  private let choice: BackendChoice
  private let console: Console

  init(_ arguments: ParsedArguments, _ console: Console) {
    choice = BackendChoice(arguments)
    self.console = console
  }

  // MARK: - Active devices

  /// The site with the active device `name`. If none has it, a site that will report that.
  func site(of name: String) throws(ToolError) -> PoolSite {
    let sites = try all()
    guard sites.count > 1 else { return sites[0] }
    // The path of a device node belongs to the kernel.
    if name.contains("/"), sites[0].server == nil { return sites[0] }
    let having = sites.filter { site in
      do throws(DeviceMapperError) {
        return try site.has(name)
      } catch {
        console.warning("\(site.server?.control ?? "the kernel's device-mapper"): \(error.reason)")
        return false
      }
    }
    guard having.count < 2 else {
      let places = having.map { $0.server.map { "--control \($0.control)" } ?? "--backend kernel" }
      throw ToolError(
        .refused, "there is more than one '\(name)'; give \(places.joined(separator: " or "))")
    }
    return having.first ?? sites[0]
  }

  /// All available sites, the kernel's first; at least one.
  func all() throws(ToolError) -> [PoolSite] {
    switch choice {
    case .kernel, .offline: return [try kernel()]
    case .userspace(let control): return [server(control)]
    case .automatic(let control):
      var controls: [String] = []
      do throws(TrustedFolder.Fault) {
        controls = try ServerFolder.usual?.controls() ?? []
      } catch {
        console.warning("pools of dmthin serve are not searched: \(error)")
      }
      if let control, !controls.contains(control) { controls.append(control) }
      // A server that was killed leaves its socket behind.
      let servers = controls.map { server($0) }.filter(answers)
      let hasKernel = console.makeDeviceMapper != nil && Self.kernelHasDeviceMapper
      return try (servers.isEmpty || hasKernel ? [kernel()] : []) + servers
    }
  }

  /// Whether a server accepts this program's commands. Warns about one of another version.
  private func answers(_ site: PoolSite) -> Bool {
    do throws(DeviceMapperError) {
      _ = try site.manager.backend.driverVersion()
      return true
    } catch {
      if error.code == EPROTONOSUPPORT { console.warning(error.reason) }
      return false
    }
  }

  private func kernel() throws(ToolError) -> PoolSite {
    PoolSite(manager: try .makeForKernel(console), server: nil)
  }

  private func server(_ control: String) -> PoolSite {
    let client = UserspaceClient(path: control)
    let progress = console.makeProgress()
    client.progress = { progress.show($0, done: $1, total: $2) }
    return PoolSite(
      manager: .make(client, RunFolder(control: control), console),
      server: (client, control))
  }

  private static var kernelHasDeviceMapper: Bool {
    let drivers = WholeFile.systemText("/proc/misc") ?? ""
    return drivers.split { $0 == " " || $0 == "\n" }.contains("device-mapper")
  }

  // MARK: - New pools

  /// Runs `body`, which activates a pool, over the kernel's device-mapper if that can take it;
  /// otherwise over that of a server, which is started if none runs.
  /// - Parameter allowsFallback: whether a server may be used when `--backend` is not given.
  func activating<R>(
    _ request: PoolActivation, allowsFallback: Bool, _ body: (PoolSite) throws -> R
  ) throws -> R {
    guard case .automatic(let control) = choice else { return try body(all()[0]) }
    guard let reason = try reasonAgainstKernel(request) else { return try body(kernel()) }
    guard allowsFallback else {
      throw ToolError(.refused, "\(reason); without --no-fallback, dmthin serve would serve it")
    }
    let (site, started) = try serverForNewPool(request.name, control)
    let result: R
    do {
      result = try body(site)
    } catch {
      started?.end()
      throw error
    }
    let process = started.map { "a new server, process \($0.process)" }
    console.note(
      "\(request.name): \(reason); it is served by \(process ?? "the running server"), "
        + "control socket \(site.server?.control ?? "")")
    return result
  }

  private func serverForNewPool(_ name: String, _ control: String?) throws(ToolError)
    -> (PoolSite, StartedServer?)
  {
    let folder = ServerFolder.usual
    if let common = control ?? folder?.commonControl, unsafe access(common, F_OK) == 0 {
      let site = server(common)
      if answers(site) { return (site, nil) }
    }
    guard control == nil else {
      throw ToolError(
        .notFound(.input),
        "no server answers at \(control ?? ""); start one with: dmthin serve --control "
          + shellQuoted(control ?? ""))
    }
    guard let program = console.serverProgram else {
      throw ToolError(.refused, "this program has no server; use dmthin")
    }
    guard let folder else {
      throw ToolError(
        .refused, "no folder for a server's sockets is known: set XDG_RUNTIME_DIR or DMTHIN_RUN")
    }
    let own = folder.ownFolder(pool: name)
    if unsafe access("\(own)/control", F_OK) == 0 {
      let site = server("\(own)/control")
      if answers(site) { return (site, nil) }
    }
    do throws(StartedServer.Failure) {
      let started = try StartedServer(program: program, folder: own)
      return (server(started.control), started)
    } catch {
      throw ToolError(.unexpected, error.description)
    }
  }

  /// Why the kernel cannot activate a pool; nil if it can.
  private func reasonAgainstKernel(_ request: PoolActivation) throws(ToolError) -> String? {
    guard console.makeDeviceMapper != nil else { return "this program has no device-mapper" }
    for path in [request.metadata, request.data] {
      var info = stat()
      if unsafe stat(path, &info) == 0, info.st_mode & S_IFMT == S_IFREG {
        return "\(path) is a file, which the kernel does not accept"
      }
    }
    let backend = try kernel().manager.backend
    do throws(DeviceMapperError) {
      if try Self.offersPools(backend) { return nil }
      // Drivers before 4.41 do not load a target's module on request.
      _ = SystemProgram.output(of: ["modprobe", "-q", "dm-thin-pool"], within: 60_000)
      return try Self.offersPools(backend) ? nil : "the kernel has no thin-pool target"
    } catch {
      guard error.code != EACCES, error.code != EPERM else {
        throw ToolError(
          .refused,
          "the kernel's device-mapper requires root: run this as root, or give --backend "
            + "userspace")
      }
      return "the kernel has no device-mapper"
    }
  }

  private static func offersPools(_ backend: any DeviceMapperBackend) throws(DeviceMapperError)
    -> Bool
  {
    if let target = try? backend.target("thin-pool"), target.name == "thin-pool" { return true }
    return try backend.targets().contains { $0.name == "thin-pool" }
  }
}
