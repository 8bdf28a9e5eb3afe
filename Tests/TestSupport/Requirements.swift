import Glibc

/// A requirement that this machine lacks. Thrown so that the test fails: a silently skipped test
/// proves nothing.
public struct MissingRequirement: Error, CustomStringConvertible {
  /// What is missing and how to get it.
  public let description: String

  init(_ description: String) { self.description = description }
}

/// The repository that the tests were built from.
public enum Repository {
  /// Its folder.
  public static let root = String(#filePath.dropLast("/Tests/TestSupport/Requirements.swift".count))
}

/// Metadata that the kernel made, one file per script in `contrib/kernel/pools`.
public enum Pools {
  /// The names of all pools, whether they exist or not.
  public static let names: [String] = {
    paths(matching: "\(Repository.root)/contrib/kernel/pools/*.sh").compactMap { path in
      path.split(separator: "/").last.map { String($0.dropLast(".sh".count)) }
    }
  }()

  /// The folder with the files.
  public static var folder: String {
    environment("DMTHIN_POOLS") ?? "\(Repository.root)/.build/pools"
  }

  /// The metadata of a pool.
  public static func path(_ name: String) throws -> String {
    let path = "\(folder)/\(name).meta"
    guard access(path, R_OK) == 0 else {
      throw MissingRequirement(
        "no \(path): run contrib/kernel/make-pools --keep-data, or set DMTHIN_POOLS to the folder "
          + "that it wrote")
    }
    return path
  }

  /// The data device of a pool.
  public static func dataPath(_ name: String) throws -> String {
    let path = "\(folder)/\(name).data"
    guard access(path, R_OK) == 0 else {
      throw MissingRequirement("no \(path): run contrib/kernel/make-pools --keep-data --force")
    }
    return path
  }
}

/// The programs under test.
public enum Tools {
  /// A folder with a link per tool, under the traditional names.
  public static let folder: Result<String, MissingRequirement> = {
    if let folder = environment("DMTHIN_TOOLS") { return .success(folder) }
    // The program is built into the tests' folder.
    guard let tests = resolved("/proc/self/exe") else {
      return .failure(MissingRequirement("no /proc; set DMTHIN_TOOLS"))
    }
    let program =
      tests.split(separator: "/").dropLast().reduce("") { "\($0)/\($1)" } + "/thin-tools"
    guard access(program, X_OK) == 0 else {
      return .failure(
        MissingRequirement(
          "no \(program): run swift build, or set DMTHIN_TOOLS to a folder with thin_check and the "
            + "others"))
    }
    let folder = program + ".links"
    mkdir(folder, 0o777)
    for name in names where symlink("../thin-tools", "\(folder)/\(name)") != 0 && errno != EEXIST {
      return .failure(MissingRequirement("cannot make links in \(folder)"))
    }
    return .success(folder)
  }()

  /// Every tool's name.
  public static let names = [
    "thin_check", "thin_delta", "thin_dump", "thin_ls", "thin_metadata_pack",
    "thin_metadata_size", "thin_metadata_unpack", "thin_repair",
    "thin_restore", "thin_rmap",
  ]

  /// The program of a tool.
  public static func path(_ name: String) throws -> String {
    let path = "\(try folder.get())/\(name)"
    guard access(path, X_OK) == 0 else {
      throw MissingRequirement("no \(path): make a link to thin-tools, or correct DMTHIN_TOOLS")
    }
    return path
  }
}

/// The tools of thin-provisioning-tools 1.1.0, to compare with.
public enum Peer {
  /// The program of a tool.
  public static func path(_ name: String) throws -> String {
    let folder =
      environment("DMTHIN_PEER")
      ?? "\(Repository.root)/.cache/peer/thin-provisioning-tools-1.1.0/usr/sbin"
    let path = "\(folder)/\(name)"
    guard access(path, X_OK) == 0 else {
      throw MissingRequirement(
        "no \(path): set DMTHIN_PEER to the folder that contrib/kernel/peer prints")
    }
    return path
  }
}

/// A variable of the environment, nil where it is unset or empty.
public func environment(_ name: String) -> String? {
  guard let value = getenv(name), value.pointee != 0 else { return nil }
  return String(cString: value)
}

/// The seed of a random test: `DMTHIN_SEED`, or a random one. It is printed, so that a failure can
/// be repeated.
public func seed(_ test: String = #function) -> UInt64 {
  let seed = environment("DMTHIN_SEED").flatMap { UInt64($0) } ?? .random(in: 0..<1_000_000_000)
  print("\(test): DMTHIN_SEED=\(seed)")
  return seed
}

/// Names of existing files that fit a pattern of the shell, sorted.
public func paths(matching pattern: String) -> [String] {
  var found = glob_t()
  defer { globfree(&found) }
  guard glob(pattern, 0, nil, &found) == 0 else { return [] }
  return (0..<Int(found.gl_pathc)).compactMap { i in
    found.gl_pathv[i].map { String(cString: $0) }
  }
}

private func resolved(_ path: String) -> String? {
  guard let text = realpath(path, nil) else { return nil }
  defer { free(text) }
  return String(cString: text)
}
