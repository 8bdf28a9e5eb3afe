import BlockIO
import ThinFormat
import ThinMetadata

/// Collects the mappings of a pool, part by part.
final class RescueSink: PoolSink {
  /// Runs that devices share.
  private struct Definition {
    var slice: RescueSlice
    var end: UInt64
    var mapped: UInt64
  }

  private enum Place {
    case none
    case definition(UInt64)
    case device
  }

  let runs: RecordStore<RescueRun>
  let slices: RecordStore<RescueSlice>
  private(set) var devices: [RescueDevice] = []
  private var reports: [ThinID: RepairReport.Device]
  private let blocksMax: UInt64
  private var definitions: [UInt64: Definition] = [:]
  private var place = Place.none
  private var device: RescueDevice?
  /// The slice to which runs are added.
  private var slice: RescueSlice?
  /// The virtual block after the last run of the device, or of the definition.
  private var reached: UInt64 = 0
  private var mapped: UInt64 = 0

  /// - Parameter blocksMax: the most blocks that a device can have.
  init(_ reports: [RepairReport.Device], bytesMax: Int, blocksMax: UInt64) {
    self.reports = Dictionary(reports.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
    self.blocksMax = blocksMax
    runs = RecordStore(bytesMax: bytesMax)
    slices = RecordStore(bytesMax: bytesMax)
  }

  func begin(_ header: DumpHeader) {}
  func beginSnapshot(_ superblock: Superblock) {}
  func end() throws(ToolError) { devices.sort { $0.id < $1.id } }

  private func begin(_ place: Place) {
    self.place = place
    (reached, mapped, slice) = (0, 0, nil)
  }

  func beginDefinition(_ name: UInt64) { begin(.definition(name)) }

  func endDefinition() {
    guard case .definition(let name) = place, let slice else { return }
    definitions[name] = Definition(slice: slice, end: reached, mapped: mapped)
    self.slice = nil
  }

  func beginDevice(_ id: ThinID, _ details: DeviceDetails) {
    begin(.device)
    var device = RescueDevice(
      reports.removeValue(forKey: id) ?? RepairReport.Device(id: id, saved: details.mappedBlocks))
    device.slices = slices.count..<slices.count
    self.device = device
  }

  func endDevice() throws(ToolError) {
    try endSlice()
    guard var device else { return }
    device.slices = device.slices.lowerBound..<slices.count
    device.mappedBlocks = mapped
    device.endBlock = VirtualBlock(reached)
    devices.append(device)
    self.device = nil
  }

  private func endSlice() throws(ToolError) {
    guard case .device = place, let slice else { return }
    do throws(BlockIOError) { try slices.append(slice) } catch { throw ToolError(error) }
    self.slice = nil
  }

  private func outOfOrder(_ block: UInt64) -> ToolError {
    ToolError(
      .damaged,
      "thin device \(device?.id ?? 0): virtual block \(block) is mapped after block \(reached) and above"
    )
  }

  func reference(_ name: UInt64) throws(ToolError) {
    try endSlice()
    // One without mappings has no slice.
    guard let definition = definitions[name] else { return }
    guard definition.slice.firstVirtual >= reached else {
      throw outOfOrder(definition.slice.firstVirtual)
    }
    do throws(BlockIOError) { try slices.append(definition.slice) } catch { throw ToolError(error) }
    reached = definition.end
    mapped += definition.mapped
  }

  func run(_ run: MappingRun) throws(ToolError) {
    let first = run.virtualBlock.rawValue
    guard first >= reached else { throw outOfOrder(first) }
    // No device reaches that far: what is mapped there cannot be addressed.
    guard first < blocksMax else { return }
    let length = min(run.length, blocksMax - first)
    let number = runs.count
    do throws(BlockIOError) {
      try runs.append(
        RescueRun(virtualBlock: first, dataBlock: run.dataBlock.rawValue, length: length))
    } catch {
      throw ToolError(error)
    }
    if slice == nil {
      slice = RescueSlice(firstVirtual: first, firstRun: number, runCount: 0)
    }
    slice?.runCount += 1
    reached = first + length
    mapped += length
  }
}
