import BlockIO
import Glibc
import ThinTools

/// The XML to restore. It is read more than once, so input from a pipe is copied to a temporary
/// file while it is checked, before anything is written.
final class RestoreInput {
  /// The most bytes of XML taken from a pipe.
  static let pipeBytesMax: UInt64 = 128 << 30

  /// Its name in messages.
  let path: String
  /// The descriptor to read from, at its current position.
  private(set) var descriptor: Int32
  /// Its size; 0 if unknown.
  private(set) var byteCount: UInt64 = 0
  /// Whether it can be read only once.
  private(set) var isPipe = false

  /// Opens `path`: a file, a device, a pipe, or a descriptor by its name in /proc or /dev.
  init(_ path: String) throws(ToolError) {
    self.path = path
    // Not opened again: it may be a socket, or another user's.
    descriptor =
      unsafe OutputPath(path).ownDescriptor.map { fcntl($0, F_DUPFD_CLOEXEC, 3) }
      ?? open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      let code = errno
      if code == ENOENT { throw ToolError(.notFound(.input), "Couldn't find input file '\(path)'") }
      throw ToolError(BlockIOError(.open, path: path, code: code))
    }
    var info = stat()
    guard unsafe fstat(descriptor, &info) == 0 else {
      throw ToolError(BlockIOError(.open, path: path, code: errno))
    }
    switch info.st_mode & S_IFMT {
    case S_IFREG: byteCount = UInt64(max(0, info.st_size))
    case S_IFBLK: break
    case S_IFDIR:
      throw ToolError(.unsuitable(.input), "'\(path)' is a folder, expected a dump in XML")
    default: isPipe = true
    }
  }

  deinit { close(descriptor) }

  /// Checks the input from a pipe while copying it, and reads the copy from then on.
  func keep(
    for output: FileDevice, options: inout RestoreOptions, progress: Progress
  ) throws(ToolError) {
    guard isPipe else { return }
    let copy: OpenFile
    do throws(BlockIOError) {
      copy = try TemporarySpace.open()
    } catch {
      throw ToolError(error)
    }
    let path = path
    var count: UInt64 = 0
    do throws(ToolError) {
      try unsafe ThinRestore.judge(
        xml: descriptor, path: path, for: output, options: options, progress: progress
      ) { (bytes: UnsafeRawBufferPointer) throws(ToolError) in
        guard UInt64(bytes.count) <= Self.pipeBytesMax - count else {
          throw ToolError(
            .outOfSpace,
            "\(path): more than \(Self.pipeBytesMax >> 30) GiB through a pipe; restore it from a file"
          )
        }
        do throws(BlockIOError) {
          try unsafe copy.write(bytes, at: count)
        } catch {
          throw ToolError(TemporarySpace.full(error))
        }
        count += UInt64(bytes.count)
      }
    } catch {
      copy.close()
      throw error
    }
    close(descriptor)
    descriptor = copy.descriptor
    byteCount = count
    isPipe = false
    options.isJudged = true
  }
}
