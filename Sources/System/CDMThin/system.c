#define _GNU_SOURCE
#include "CDMThin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

const int dmthin_o_direct = O_DIRECT;
const int dmthin_o_path = O_PATH;

int dmthin_memory_file(const char *name) { return memfd_create(name, MFD_CLOEXEC); }

int dmthin_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }

int dmthin_is_range_locked(int fd, int for_writing) {
    struct flock lock = {.l_type = for_writing ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_GETLK, &lock)) return -1;
    return lock.l_type != F_UNLCK;
}

int dmthin_unnamed_file(const char *folder, uint32_t mode) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
    if (fd < 0) return -1;
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (access(link, F_OK) == 0) return fd;
    close(fd);
    errno = EOPNOTSUPP;
    return -1;
}

int dmthin_temporary_file(const char *folder) {
    int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
    char *name;
    if (asprintf(&name, "%s/dmthin.XXXXXX", folder) < 0) return -1;
    fd = mkostemp(name, O_CLOEXEC);
    int code = errno;
    if (fd >= 0) unlink(name);
    free(name);
    errno = code;
    return fd;
}

int dmthin_is_proc(const char *folder) {
    struct statfs info;
    return statfs(folder, &info) == 0 && info.f_type == PROC_SUPER_MAGIC;
}

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
