public import BlockIO
public import PersistentData
import ThinFormat
public import ThinMetadata
public import ThinTools

extension PoolAtRest {
  /// Opens the metadata exclusively: a device with O_EXCL, a file with a lock.
  public func open() throws(ToolError) -> FileDevice {
    do throws(OutputError) {
      return try MetadataOutput.open(path)
    } catch {
      throw ToolError(error)
    }
  }

  /// Changes the metadata as the kernel would, in one transaction.
  public func change(_ body: (PoolMetadata) throws(PoolError) -> Void) throws(ToolError) {
    let device = try open()
    do throws(PoolError) {
      let pool = try PoolMetadata.open(device)
      try requireSound(pool)
      try body(pool)
      try pool.commit()
    } catch {
      throw ToolError(error)
    }
  }

  /// Refuses metadata that needs a check, or that is larger than its device.
  private func requireSound(_ pool: PoolMetadata) throws(PoolError) {
    guard !pool.superblock.needsCheck else {
      throw .invalid(
        "\(path): the needs-check flag is set; run thin_check --auto-repair \(path) first")
    }
    let present = pool.device.byteCount / UInt64(Limits.blockBytes)
    guard pool.metadataBlockCount <= present else {
      throw .invalid(
        "\(path): the pool's metadata has \(pool.metadataBlockCount) blocks of 4096 bytes, the "
          + "device only \(present)")
    }
  }

  /// Formats a device that `open` returned as the metadata of an empty pool. Its first 4096 bytes
  /// must be zero; after a failure they are zero again.
  /// - Parameter blockSectors: sectors in a data block, a multiple of 128.
  public func format(_ device: FileDevice, blockSectors: UInt32, dataBlocks: UInt64)
    throws(ToolError)
  {
    do throws(PoolError) {
      guard try PoolMetadata.isUnformatted(device) else {
        throw .invalid(
          "\(path) is not empty. If its content is not needed, overwrite its first 4096 bytes "
            + "with zeros: dd if=/dev/zero of=\(path) bs=4096 count=1 conv=notrunc,fsync")
      }
      try Self.format(device, blockSectors, dataBlocks)
    } catch {
      guard error == .metadataFull else { throw ToolError(error) }
      throw ToolError(
        .outOfSpace,
        "\(path) is too small for \(dataBlocks) data blocks; thin_metadata_size prints what a pool "
          + "needs")
    }
  }

  /// Formats in two transactions, as the kernel does. On failure no pool without data blocks is
  /// left behind.
  private static func format(_ device: FileDevice, _ sectors: UInt32, _ dataBlocks: UInt64)
    throws(PoolError)
  {
    let pool = try PoolMetadata.format(device, dataBlockSectors: sectors)
    do throws(PoolError) {
      try pool.resizeData(to: dataBlocks)
      try pool.commit()
    } catch {
      let zeros = AlignedBuffer(count: Limits.blockBytes)
      try? unsafe device.write(UnsafeRawBufferPointer(zeros.bytes), at: 0)
      try? device.flush()
      throw error
    }
  }
}
