#define _GNU_SOURCE
#include "CDMThin.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

const int dmthin_o_direct = O_DIRECT;

int dmthin_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int dmthin_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

int dmthin_spawn_close_from(void *actions, int first) {
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

int dmthin_fallocate(int fd, int mode, int64_t offset, int64_t bytes) {
    return fallocate(fd, mode, offset, bytes);
}

ssize_t dmthin_pwrite_dsync(int fd, const void *bytes, size_t count, int64_t offset) {
    struct iovec vector = {(void *)bytes, count};
    return pwritev2(fd, &vector, 1, offset, RWF_DSYNC);
}
