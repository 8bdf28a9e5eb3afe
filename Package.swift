// swift-tools-version: 6.2
import PackageDescription

// Settings of every Swift target. Warnings are errors, so that a warning is dealt with when it
// appears; imports are internal unless a public declaration needs them.
let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableExperimentalFeature("Lifetimes"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("ExistentialAny"),
  .treatAllWarnings(as: .error),
]

/// Settings of what is installed: every use of what the compiler cannot prove to be memory-safe is marked
/// `unsafe`. Tests, trials and benches are read for other things.
func settings(of folder: String) -> [SwiftSetting] {
  folder.hasPrefix("Sources/") ? settings + [.strictMemorySafety()] : settings
}

/// A target in a folder, whose name is the target's.
func library(_ folder: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(
    name: name(folder), dependencies: dependencies, path: folder,
    swiftSettings: settings(of: folder))
}

func program(_ folder: String, _ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .executableTarget(
    name: name, dependencies: dependencies, path: folder, swiftSettings: settings(of: folder))
}

func system(_ folder: String, _ package: String? = nil) -> Target {
  .systemLibrary(
    name: name(folder), path: folder, providers: package.map { [.apt([$0])] })
}

func name(_ folder: String) -> String { String(folder.split(separator: "/").last ?? "") }

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, swiftSettings: settings)
}

// What a product needs, so that a program that uses it can name every type in its interface.
let metadata = ["ThinFormat", "BlockIO", "PersistentData", "ThinMetadata"]
let blockPath = ["EventLoop", "DataPath"]

let package = Package(
  name: "dmthin",
  products: [
    .executable(name: "thin-tools", targets: ["thin-tools"]),
    .executable(name: "dmthin", targets: ["dmthin"]),
    .executable(name: "dmthin-server", targets: ["dmthin-server"]),
    // Documentation/libraries has a page for each.
    .library(name: "ThinMetadata", targets: metadata),
    .library(name: "ThinTools", targets: metadata + ["ThinTools"]),
    .library(name: "DeviceMapper", targets: ["DeviceMapper"]),
    .library(name: "KernelDeviceMapper", targets: ["DeviceMapper", "KernelDeviceMapper"]),
    .library(name: "DataPath", targets: ["BlockIO"] + blockPath),
    .library(name: "Targets", targets: metadata + blockPath + ["DeviceMapper", "Targets"]),
    .library(name: "BlockServer", targets: ["BlockIO"] + blockPath + ["BlockServer"]),
  ],
  targets: [
    system("Sources/System/Claio", "libaio-dev"),
    system("Sources/System/Cexpat", "libexpat1-dev"),
    system("Sources/System/Cdeflate", "libdeflate-dev"),
    system("Sources/System/Cgetopt"),
    system("Sources/System/Cgnutls", "libgnutls28-dev"),
    system("Sources/System/Cdevmapper", "libdevmapper-dev"),
    .target(name: "CDMThin", path: "Sources/System/CDMThin"),
    library("Sources/Metadata/ThinFormat", ["CDMThin"]),
    library("Sources/System/BlockIO", ["CDMThin", "Claio"]),
    library("Sources/System/EventLoop", ["CDMThin", "BlockIO"]),
    library("Sources/BlockPath/DataPath", ["CDMThin", "BlockIO", "EventLoop"]),
    library(
      "Sources/FrontEnds/BlockServer", ["BlockIO", "CDMThin", "Cgnutls", "DataPath", "EventLoop"]),
    library(
      "Tests/Simulation/ServerSimulation",
      ["BlockServer", "CDMThin", "DataPath", "EventLoop", "Simulation"]),
    library("Sources/Metadata/PersistentData", ["ThinFormat", "BlockIO"]),
    library("Sources/Metadata/ThinMetadata", ["ThinFormat", "BlockIO", "PersistentData"]),
    library(
      "Sources/Metadata/ThinTools",
      [
        "CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "Cexpat", "Cdeflate",
      ]),
    library("Sources/Control/DeviceMapper", []),
    library("Sources/Control/KernelDeviceMapper", ["CDMThin", "Cdevmapper", "DeviceMapper"]),
    library(
      "Sources/Control/PoolManager",
      [
        "CDMThin", "DeviceMapper", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata",
        "ThinTools",
      ]),
    library(
      "Sources/Mapper/Targets",
      [
        "CDMThin", "BlockIO", "DataPath", "DeviceMapper", "EventLoop", "PersistentData",
        "ThinFormat", "ThinMetadata",
      ]),
    library("Sources/Control/ServerControl", ["BlockIO", "CDMThin", "DeviceMapper"]),
    library(
      "Sources/Server/PoolServer",
      [
        "CDMThin", "BlockIO", "BlockServer", "DataPath", "DeviceMapper", "EventLoop",
        "PersistentData", "PoolManager", "ServerControl", "Targets", "ThinFormat", "ThinMetadata",
        "ThinTools",
      ]),
    library(
      "Tests/Simulation/TargetSimulation",
      ["BlockIO", "DataPath", "DeviceMapper", "EventLoop", "Simulation", "Targets", "ThinTools"]),
    library(
      "Tests/Simulation/Simulation",
      ["CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools"]),
    library(
      "Sources/Commands/Commands",
      [
        "CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools",
        "DeviceMapper", "PoolManager", "ServerControl", "Cgetopt",
      ]),
    library(
      "Sources/Commands/ServerProgram",
      [
        "CDMThin", "Commands", "DataPath", "DeviceMapper", "PoolManager", "Targets", "ThinTools",
      ]),
    library(
      "Sources/Commands/ServeCommands",
      [
        "BlockServer", "Commands", "DeviceMapper", "PoolManager", "PoolServer", "ServerProgram",
        "ThinTools",
      ]),
    program("Sources/Programs/thin-tools", "thin-tools", ["CDMThin", "Commands"]),
    program(
      "contrib/bench/Engine", "bench-engine",
      [
        "CDMThin", "Simulation", "BlockIO", "PersistentData", "ThinFormat", "ThinMetadata",
        "ThinTools",
      ]),
    program(
      "contrib/PoolScripts", "pool-script",
      [
        "CDMThin", "BlockIO", "DataPath", "DeviceMapper", "EventLoop", "KernelDeviceMapper",
        "PersistentData", "Simulation", "Targets", "ThinFormat", "ThinMetadata", "ThinTools",
      ]),
    program("contrib/kernel/RigProgram", "rig", ["CDMThin", "Simulation"]),
    program(
      "contrib/TrialProgram", "trials",
      [
        "BlockIO", "BlockServer", "CDMThin", "DataPath", "EventLoop", "ServerSimulation",
        "Simulation", "TargetSimulation", "ThinFormat", "ThinTools",
      ]),
    program("contrib/bench/Limit", "bench-limit", ["BlockIO", "CDMThin", "ThinFormat"]),
    program(
      "contrib/bench/Targets", "bench-targets",
      [
        "BlockIO", "CDMThin", "DataPath", "DeviceMapper", "EventLoop", "Simulation", "Targets",
      ]),
    program(
      "contrib/nbd/FileServer", "nbd-file",
      ["BlockIO", "BlockServer", "CDMThin", "DataPath", "EventLoop"]),
    program(
      "Sources/Programs/dmthin", "dmthin",
      ["CDMThin", "Commands", "KernelDeviceMapper", "ServerProgram"]),
    program(
      "Sources/Programs/dmthin-server", "dmthin-server", ["CDMThin", "Commands", "ServeCommands"]),
    library("Tests/TestSupport", ["CDMThin", "Simulation", "ThinFormat"]),
    tests(
      "BlockServerTests",
      [
        "BlockServer", "CDMThin", "DataPath", "EventLoop", "ServerSimulation", "Simulation",
        "TestSupport",
      ]),
    tests("EventLoopTests", ["CDMThin", "EventLoop", "TestSupport"]),
    tests("ThinFormatTests", ["CDMThin", "ThinFormat", "BlockIO", "TestSupport", "Simulation"]),
    tests("DeviceMapperTests", ["DeviceMapper", "Simulation"]),
    tests(
      "DataPathTests",
      ["CDMThin", "BlockIO", "DataPath", "EventLoop", "Simulation", "TestSupport"]),
    tests(
      "TargetsTests",
      [
        "Targets", "DataPath", "BlockIO", "DeviceMapper", "EventLoop", "ThinMetadata", "ThinTools",
        "ThinFormat", "Simulation", "TargetSimulation", "TestSupport",
      ]),
    tests(
      "PoolManagerTests",
      [
        "PoolManager", "DeviceMapper", "BlockIO", "ThinFormat", "ThinMetadata", "ThinTools",
        "Simulation", "TestSupport",
      ]),
    tests(
      "PersistentDataTests",
      ["CDMThin", "ThinFormat", "BlockIO", "PersistentData", "TestSupport", "Simulation"]),
    tests(
      "ThinToolsTests",
      [
        "CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools",
        "TestSupport",
        "Simulation",
      ]),
    .testTarget(
      name: "ThinMetadataTests",
      dependencies: [
        "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools", "TestSupport",
        "Simulation",
      ],
      exclude: ["Vectors"], swiftSettings: settings),
    tests(
      "CommandsTests",
      [
        "BlockIO", "CDMThin", "Commands", "DeviceMapper", "PersistentData", "Simulation",
        "TestSupport", "ThinFormat", "ThinMetadata", "ThinTools",
      ]),
    tests(
      "PoolServerTests",
      [
        "BlockIO", "BlockServer", "CDMThin", "Commands", "DataPath", "DeviceMapper", "EventLoop",
        "PoolManager", "PoolServer", "ServeCommands", "ServerControl", "ServerSimulation",
        "Simulation", "TargetSimulation", "Targets", "TestSupport", "ThinFormat", "ThinMetadata",
        "ThinTools",
      ]),
    // The code of the pages in Documentation/libraries.
    tests(
      "LibraryTests",
      [
        "BlockIO", "BlockServer", "DataPath", "DeviceMapper", "EventLoop", "Targets",
        "TestSupport", "ThinFormat", "ThinMetadata", "ThinTools",
      ]),
    tests("InteropTests", ["TestSupport", "Simulation", "ThinFormat"]),
    tests("KernelTests", ["DeviceMapper", "Targets", "TestSupport"]),
  ]
)
