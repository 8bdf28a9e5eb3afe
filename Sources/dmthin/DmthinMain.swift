import BlockIO
import ThinMetadata
import ThinTools

@main struct Main {
  static func main() {
    let a = CommandLine.arguments
    do {
      let device = try FileDevice(path: a[2], access: .readOnly, exclusive: true)
      if a[1] == "check" {
        var o = CheckOptions()
        if a.count > 3 && a[3] == "-m" { o.metadataSnapshot = true }
        let r = try check(device, options: o, progress: Progress())
        print("TRANSACTION_ID=\(r.transactionID)\nMETADATA_FREE_BLOCKS=\(r.metadataFreeBlocks)")
        for f in r.findings { print(f.severity, f.message) }
        print(r.isClean ? "clean" : "NOT CLEAN", r.deviceCount)
      }
      if a[1] == "dump" {
        var o = DumpOptions()
        for x in a.dropFirst(3) { if x == "-m" { o.source = .metadataSnapshot }; if x == "-h" { o.format = .humanReadable } }
        try dump(device, to: ByteSink(descriptor: 1, path: "stdout"), options: o, progress: Progress())
      }
    } catch { print("error: \(error)") }
  }
}
