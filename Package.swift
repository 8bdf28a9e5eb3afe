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

func library(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

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
    .systemLibrary(name: "Claio", providers: [.apt(["libaio-dev"])]),
    .systemLibrary(name: "Cexpat", providers: [.apt(["libexpat1-dev"])]),
    .systemLibrary(name: "Czlib", providers: [.apt(["zlib1g-dev"])]),
    .systemLibrary(name: "Cgetopt"),
    .systemLibrary(name: "Cgnutls", providers: [.apt(["libgnutls28-dev"])]),
    .systemLibrary(name: "Cdevmapper", providers: [.apt(["libdevmapper-dev"])]),
    .target(name: "CDMThin"),
    library("ThinFormat", ["CDMThin"]),
    library("BlockIO", ["CDMThin", "Claio"]),
    library("EventLoop", ["CDMThin", "BlockIO"]),
    library("DataPath", ["CDMThin", "BlockIO", "EventLoop"]),
    library("BlockServer", ["BlockIO", "CDMThin", "Cgnutls", "DataPath", "EventLoop"]),
    library(
      "ServerSimulation", ["BlockServer", "CDMThin", "DataPath", "EventLoop", "Simulation"]),
    library("PersistentData", ["ThinFormat", "BlockIO"]),
    library("ThinMetadata", ["ThinFormat", "BlockIO", "PersistentData"]),
    library(
      "ThinTools",
      [
        "CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "Cexpat", "Czlib",
      ]),
    library("DeviceMapper", []),
    library("KernelDeviceMapper", ["CDMThin", "Cdevmapper", "DeviceMapper"]),
    library(
      "PoolManager",
      [
        "CDMThin", "DeviceMapper", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata",
        "ThinTools",
      ]),
    library(
      "Targets",
      [
        "CDMThin", "BlockIO", "DataPath", "DeviceMapper", "EventLoop", "PersistentData",
        "ThinFormat", "ThinMetadata",
      ]),
    library("ServerControl", ["BlockIO", "CDMThin", "DeviceMapper"]),
    library(
      "PoolServer",
      [
        "CDMThin", "BlockIO", "BlockServer", "DataPath", "DeviceMapper", "EventLoop",
        "PersistentData", "PoolManager", "ServerControl", "Targets", "ThinFormat", "ThinMetadata",
        "ThinTools",
      ]),
    library(
      "TargetSimulation",
      ["BlockIO", "DataPath", "DeviceMapper", "EventLoop", "Simulation", "Targets", "ThinTools"]),
    library(
      "Simulation",
      ["CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools"]),
    library(
      "Commands",
      [
        "CDMThin", "ThinFormat", "BlockIO", "PersistentData", "ThinMetadata", "ThinTools",
        "DeviceMapper", "PoolManager", "ServerControl", "Cgetopt",
      ]),
    library(
      "ServerProgram",
      [
        "CDMThin", "Commands", "DataPath", "DeviceMapper", "PoolManager", "Targets", "ThinTools",
      ]),
    library(
      "ServeCommands",
      [
        "BlockServer", "Commands", "DeviceMapper", "PoolManager", "PoolServer", "ServerProgram",
        "ThinTools",
      ]),
    .executableTarget(
      name: "thin-tools", dependencies: ["CDMThin", "Commands"], swiftSettings: settings),
    .executableTarget(
      name: "bench-engine",
      dependencies: [
        "CDMThin", "Simulation", "BlockIO", "PersistentData", "ThinFormat", "ThinMetadata",
      ],
      path: "contrib/bench/Engine", swiftSettings: settings),
    .executableTarget(
      name: "pool-script",
      dependencies: [
        "CDMThin", "BlockIO", "DataPath", "DeviceMapper", "EventLoop", "KernelDeviceMapper",
        "PersistentData", "Simulation", "Targets", "ThinFormat", "ThinMetadata", "ThinTools",
      ],
      path: "contrib/PoolScripts", swiftSettings: settings),
    .executableTarget(
      name: "rig", dependencies: ["CDMThin", "Simulation"], path: "contrib/kernel/RigProgram",
      swiftSettings: settings),
    .executableTarget(
      name: "trials",
      dependencies: [
        "BlockIO", "BlockServer", "CDMThin", "DataPath", "EventLoop", "ServerSimulation",
        "Simulation", "TargetSimulation", "ThinFormat", "ThinTools",
      ],
      path: "contrib/TrialProgram", swiftSettings: settings),
    .executableTarget(
      name: "bench-limit", dependencies: ["BlockIO", "CDMThin", "ThinFormat"],
      path: "contrib/bench/Limit",
      swiftSettings: settings),
    .executableTarget(
      name: "bench-targets",
      dependencies: [
        "BlockIO", "CDMThin", "DataPath", "DeviceMapper", "EventLoop", "Simulation", "Targets",
      ],
      path: "contrib/bench/Targets", swiftSettings: settings),
    .executableTarget(
      name: "nbd-file",
      dependencies: ["BlockIO", "BlockServer", "CDMThin", "DataPath", "EventLoop"],
      path: "contrib/nbd/FileServer", swiftSettings: settings),
    .executableTarget(
      name: "dmthin",
      dependencies: ["CDMThin", "Commands", "KernelDeviceMapper", "ServerProgram"],
      swiftSettings: settings),
    .executableTarget(
      name: "dmthin-server", dependencies: ["CDMThin", "Commands", "ServeCommands"],
      swiftSettings: settings),
    .target(
      name: "TestSupport", dependencies: ["CDMThin", "Simulation", "ThinFormat"],
      path: "Tests/TestSupport",
      swiftSettings: settings),
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
        "PoolManager", "PoolServer", "ServeCommands", "ServerControl", "Simulation", "Targets",
        "TestSupport", "ThinFormat", "ThinMetadata", "ThinTools",
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
