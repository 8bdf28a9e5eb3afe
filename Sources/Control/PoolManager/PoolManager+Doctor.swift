import BlockIO
import DeviceMapper
import Glibc
import ThinFormat
import ThinMetadata
public import ThinTools

extension PoolManager {
  /// Looks for problems of an active pool. Changes nothing.
  /// - Parameters:
  ///   - expected: the expected transaction id; nil asks lvm2, if the pool is lvm2's.
  ///   - seconds: how long to measure the rate at which it fills; 0 not to measure.
  public func diagnose(_ pool: LivePool, expected: UInt64? = nil, seconds: UInt32 = 0)
    throws(ToolError) -> [Diagnosis]
  {
    // A query that commits would change a failing pool.
    let first = try status(pool, flushes: false)
    if seconds > 0 { sleep(seconds) }
    let status = seconds > 0 ? try status(pool, flushes: false) : first
    let metadataPath = pool.metadata.map { devices.path($0, backend) }
    let dataPath = pool.data.map { devices.path($0, backend) }
    var symptoms = PoolSymptoms(
      name: pool.name, status: status, target: pool.target, tableSectors: pool.sectors,
      metadataPath: metadataPath ?? pool.target.metadataDevice,
      dataPath: dataPath ?? pool.target.dataDevice)
    symptoms.dataDeviceSectors = pool.data.flatMap { devices.sectors($0, backend) }
    symptoms.metadataDeviceBlocks = pool.metadata.flatMap { devices.sectors($0, backend) }
      .map { $0 / UInt64(Limits.blockSectors) }
    if let metadataPath { symptoms.metadataFault = Self.superblockFault(metadataPath) }
    symptoms.isSuspended = pool.info.isSuspended
    symptoms.hasInactiveTable = pool.info.hasInactiveTable
    if case .working = status {
      symptoms.suspendedThins = try activeThins(pool).filter(\.info.isSuspended).map(\.name)
    }
    if let lease = knownLease(pool) {
      symptoms.lease = describe(lease, pool)
      if case .working(let details) = status {
        symptoms.leaseFault = lease.fault(
          now: Lease.now(), heldRoot: details.heldRoot.map { MetadataBlock($0) })
      }
    }
    if let expected {
      symptoms.expected = (expected, "--expect-transaction-id")
    } else if pool.info.uuid.hasPrefix("LVM-"), let volume = LVMRecords.volume(ofDevice: pool.name),
      let id = LVMRecords.transactionID(volume)
    {
      symptoms.expected = (id, "lvm2")
    }
    if seconds > 0 { symptoms.earlier = (first, UInt64(seconds)) }
    return symptoms.findings()
  }

  private static func superblockFault(_ path: String) -> ToolError? {
    let device: FileDevice
    do throws(BlockIOError) {
      device = try FileDevice(path: path, access: .readOnly, exclusive: false)
    } catch {
      return ToolError(error)
    }
    do throws(MetadataError) {
      _ = try MetadataView(device, source: .current)
      return nil
    } catch {
      return ToolError(error)
    }
  }
}
