// Functions that Swift cannot express: the CRC32C instruction and the kernel's function-like
// macros.
#ifndef CDMTHIN_H
#define CDMTHIN_H

#include <stddef.h>
#include <stdint.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <malloc.h>

#include "EventLoop.h"
#include "Fiber.h"
#include "Program.h"
#include "Sockets.h"
#include "Time.h"

/// CRC-32C (Castagnoli, reflected) over `count` bytes, starting from register value `seed`,
/// without the final inversion.
uint32_t dmthin_crc32c(uint32_t seed, const void *bytes, size_t count);

/// The same by table, one byte at a time: the reference for tests.
uint32_t dmthin_crc32c_reference(uint32_t seed, const void *bytes, size_t count);

/// Size of a block device in bytes; returns -1 and sets errno as ioctl(2) does.
static inline int dmthin_block_device_bytes(int fd, uint64_t *bytes) {
    return ioctl(fd, BLKGETSIZE64, bytes);
}

/// Logical sector size of a block device in bytes; returns -1 and sets errno as ioctl(2) does.
static inline int dmthin_block_device_sector_bytes(int fd, int *bytes) {
    return ioctl(fd, BLKSSZGET, bytes);
}

/// Creates a file in memory, for tests and trials. Returns a descriptor, or -1 with errno set.
int dmthin_memory_file(const char *name);

/// Creates a pipe whose ends are closed on exec. Returns -1 with errno set on failure.
int dmthin_pipe(int ends[2]);

/// Whether another open file holds a lock of fcntl(2) that conflicts with one for writing, or for
/// reading, of the whole file: 1 or 0, or -1 with errno set.
int dmthin_is_range_locked(int fd, int for_writing);

/// Creates a file without a name in `folder`, for reading and writing, closed on exec. Returns -1
/// with errno set if the file system does not support that, or if /proc, through which it gets a
/// name later, is missing.
int dmthin_unnamed_file(const char *folder, uint32_t mode);

/// Creates such a file, with a name for a moment if necessary. It cannot get a name later.
int dmthin_temporary_file(const char *folder);

/// Whether `folder` is in a /proc file system.
int dmthin_is_proc(const char *folder);

/// Adds to `actions`, a posix_spawn_file_actions_t, that a child closes all descriptors from
/// `first` on. Returns 0 or an error number.
int dmthin_spawn_close_from(void *actions, int first);

/// Returns large freed blocks to the system at once. Growing tables leave old memory behind, which
/// the allocator would keep because it raises its threshold.
static inline void dmthin_return_freed_memory(void) { mallopt(M_MMAP_THRESHOLD, 128 << 10); }

/// O_DIRECT: this header is restricted to POSIX, because feature macros would change the system
/// headers and conflict with those of other modules.
extern const int dmthin_o_direct;
/// O_PATH, for the same reason.
extern const int dmthin_o_path;

/// A function of dm_log_with_errno_fn's type for libdevmapper: formats a message and passes it to
/// the sink. Text longer than 4 KiB is truncated. (Swift does not import variadic functions.)
void *dmthin_dm_log_function(void);

/// The sink of that function; null drops messages. `text` is valid only during the call.
typedef void (*dmthin_dm_log_sink)(int level, const char *text);
void dmthin_dm_log_to(dmthin_dm_log_sink sink);

/// Makes a descriptor of /dev/mapper/control readable at the next event of any device. Returns -1
/// and sets errno as ioctl(2) does.
int dmthin_dm_arm_events(int fd);

/// The value of the first semaphore of a set; -1 with errno.
int dmthin_semaphore_value(int set);
/// Removes a set of semaphores; -1 with errno.
int dmthin_semaphore_remove(int set);

#endif
