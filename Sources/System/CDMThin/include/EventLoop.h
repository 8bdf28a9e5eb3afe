// Parts of the system that the event loop needs and Swift's Glibc module lacks.
#ifndef DMTHIN_EVENT_LOOP_H
#define DMTHIN_EVENT_LOOP_H

#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/types.h>

/// Watches `fd` for `events`, which are reported with `token`. `operation` is EPOLL_CTL_*.
static inline int dmthin_epoll_control(int epoll, int operation, int fd, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return epoll_ctl(epoll, operation, fd, &event);
}

static inline uint64_t dmthin_epoll_token(const struct epoll_event *event) { return event->data.u64; }

static const uint32_t dmthin_epollin = EPOLLIN, dmthin_epollout = EPOLLOUT, dmthin_epollet = EPOLLET,
                      dmthin_epollerr = EPOLLERR, dmthin_epollhup = EPOLLHUP,
                      dmthin_epollrdhup = EPOLLRDHUP;

/// Creates a non-blocking eventfd, closed on exec. Returns -1 with errno set on failure.
static inline int dmthin_eventfd(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

/// Discards, or fills with zeros, a range of a block device.
static inline int dmthin_block_device_discard(int fd, uint64_t offset, uint64_t bytes) {
    uint64_t range[2] = {offset, bytes};
    return ioctl(fd, BLKDISCARD, range);
}
static inline int dmthin_block_device_zero(int fd, uint64_t offset, uint64_t bytes) {
    uint64_t range[2] = {offset, bytes};
    return ioctl(fd, BLKZEROOUT, range);
}

static const int dmthin_punch_hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                 dmthin_zero_range = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
int dmthin_fallocate(int fd, int mode, int64_t offset, int64_t bytes);

/// Durable when it completes (Linux 4.7).
static const uint32_t dmthin_rwf_dsync = RWF_DSYNC;
ssize_t dmthin_pwrite_dsync(int fd, const void *bytes, size_t count, int64_t offset);

/// The head of the ring that the kernel maps for each libaio context, from which completions can be
/// read without a system call. The layout is fixed by the kernel's interface (fs/aio.c; version 1,
/// magic below), and libaio reads it too.
struct dmthin_aio_ring {
    uint32_t id, count, head, tail, magic, compat_features, incompat_features, header_bytes;
};
static const uint32_t dmthin_aio_ring_magic = 0xa10a10a1;

static inline int dmthin_aio_ring_is_known(const void *context) {
    const struct dmthin_aio_ring *ring = context;
    return ring->magic == dmthin_aio_ring_magic && ring->incompat_features == 0;
}
static inline int dmthin_aio_ring_has_events(const void *context) {
    const struct dmthin_aio_ring *ring = context;
    return ring->head != __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
}
/// Reads up to `max` completions (struct io_event, 32 bytes each). Returns their number.
static inline int dmthin_aio_ring_take(void *context, void *events, int max) {
    struct dmthin_aio_ring *ring = context;
    uint32_t head = ring->head, tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
    int taken = 0;
    while (head != tail && taken < max) {
        const char *source = (const char *)ring + ring->header_bytes + (size_t)head * 32;
        __builtin_memcpy((char *)events + (size_t)taken++ * 32, source, 32);
        head = head + 1 == ring->count ? 0 : head + 1;
    }
    __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
    return taken;
}

#endif
