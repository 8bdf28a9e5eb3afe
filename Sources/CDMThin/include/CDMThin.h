// What Swift cannot say itself: the CRC32C instruction and the kernel's function-like macros.
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

/// CRC-32C (Castagnoli, reflected) over `count` bytes, starting from register value `seed`,
/// without the final inversion.
uint32_t dmthin_crc32c(uint32_t seed, const void *bytes, size_t count);

/// The same by table, one byte at a time: the reference that tests compare with.
uint32_t dmthin_crc32c_reference(uint32_t seed, const void *bytes, size_t count);

/// Size of a block device in bytes; returns -1 and sets errno as ioctl(2) does.
static inline int dmthin_block_device_bytes(int fd, uint64_t *bytes) {
    return ioctl(fd, BLKGETSIZE64, bytes);
}

/// Logical sector size of a block device in bytes; returns -1 and sets errno as ioctl(2) does.
static inline int dmthin_block_device_sector_bytes(int fd, int *bytes) {
    return ioctl(fd, BLKSSZGET, bytes);
}

/// A file in memory, for tests and trials; a descriptor, or -1 with errno set.
int dmthin_memory_file(const char *name);

/// A pipe whose ends are closed on exec; -1 with errno set.
int dmthin_pipe(int ends[2]);

/// Whether another open file has a lock of fcntl(2) on a part of the file that is at odds with one for
/// writing, or for reading, of all of it: 1 or 0, or -1 with errno set.
int dmthin_is_range_locked(int fd, int for_writing);

/// A new file without a name in `folder`, for reading and writing, closed on exec; -1 with errno set where
/// the file system cannot do that, or where /proc, through which it gets a name later, is missing.
int dmthin_unnamed_file(const char *folder, uint32_t mode);

/// The same, also where it has to have a name for a moment. It can get none later.
int dmthin_temporary_file(const char *folder);

/// Whether `folder` is in a /proc.
int dmthin_is_proc(const char *folder);

/// Adds to `actions`, a posix_spawn_file_actions_t, that a child has nothing open from descriptor `first`
/// on; returns 0 or an error number.
int dmthin_spawn_close_from(void *actions, int first);

/// Has large blocks go back to the system when they are freed. Tables that grow leave their old
/// memory behind; the threshold that the allocator would adapt to them keeps it.
static inline void dmthin_return_freed_memory(void) { mallopt(M_MMAP_THRESHOLD, 128 << 10); }

/// O_DIRECT: this header does not ask for more than POSIX, as system headers look different then, and
/// would be at odds with those of other modules.
extern const int dmthin_o_direct;
/// O_PATH, for the same reason.
extern const int dmthin_o_path;

/// A function of dm_log_with_errno_fn's type for libdevmapper: formats what is said and hands it to
/// the sink. Text longer than 4 KiB is cut. (Swift does not import functions of variable arguments.)
void *dmthin_dm_log_function(void);

/// Where that function puts what it gets; null drops it. `text` is only valid during the call.
typedef void (*dmthin_dm_log_sink)(int level, const char *text);
void dmthin_dm_log_to(dmthin_dm_log_sink sink);

/// Has a descriptor of /dev/mapper/control become readable with the next event of any device; returns
/// -1 and sets errno as ioctl(2) does.
int dmthin_dm_arm_events(int fd);

/// The value of the first semaphore of a set; -1 with errno.
int dmthin_semaphore_value(int set);
/// Removes a set of semaphores; -1 with errno.
int dmthin_semaphore_remove(int set);

#endif
