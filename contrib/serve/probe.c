/* probe: how long a client of a served volume waits for small reads.
 *
 * usage: probe SOCKET VOLUME BYTES
 *
 * Reads 4 KiB at a time, at random places in the first BYTES of VOLUME, one read every half
 * millisecond, until its standard input ends. Then prints "COUNT P50 P99 MAX LATE99 FIFO":
 * reads, milliseconds that half of them, 99 of 100 and all took at most, milliseconds by which
 * 99 of 100 of its own sleeps were too long, and 1 where the system gave it a real-time
 * priority: then what it measures is the server, and not how soon the system lets it run itself.
 * In C, because a busy interpreter waits for longer than a server does. */
#include <endian.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 4096, PAUSE_NS = 500000, READS_MAX = 1 << 20 };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void take(int fd, void *to, size_t count) {
    for (size_t done = 0; done < count;) {
        ssize_t n = read(fd, (char *)to + done, count - done);
        if (n <= 0) die("read");
        done += n;
    }
}

static void give(int fd, const void *from, size_t count) {
    if (write(fd, from, count) != (ssize_t)count) die("write");
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static int ascending(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The handshake: NBD_OPT_GO, whose answers are passed over up to the acknowledgement. */
static void choose(int fd, const char *volume) {
    unsigned char bytes[512] = {0}, skipped[4096];
    uint32_t name = strlen(volume), length = name + 6;
    if (length > 256) exit(2);
    take(fd, skipped, 18);
    memcpy(bytes, "\0\0\0\3IHAVEOPT\0\0\0\7", 16);
    length = htobe32(length);
    memcpy(bytes + 16, &length, 4);
    length = htobe32(name);
    memcpy(bytes + 20, &length, 4);
    memcpy(bytes + 24, volume, name);
    give(fd, bytes, 26 + name);
    for (uint32_t reply[5] = {0}; be32toh(reply[3]) != 1;) {
        take(fd, reply, sizeof reply);
        length = be32toh(reply[4]);
        if (be32toh(reply[3]) >> 31 || length > sizeof skipped) exit(3);
        take(fd, skipped, length);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct sched_param first = {.sched_priority = 1};
    if (argc != 4 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: probe SOCKET VOLUME BYTES\n");
        return 2;
    }
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (void *)&address, sizeof address)) die(argv[1]);
    choose(fd, argv[2]);
    long blocks = atol(argv[3]) / READ_BYTES, count = 0;
    if (blocks < 1) return 2;
    double *taken = malloc(READS_MAX * sizeof *taken), *late = malloc(READS_MAX * sizeof *late);
    if (!taken || !late) die("malloc");
    int fifo = sched_setscheduler(0, SCHED_FIFO, &first) == 0;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    srandom(1);
    printf("ready\n");
    fflush(stdout);
    while (count < READS_MAX && poll(&input, 1, 0) == 0) {
        unsigned char request[28] = {0x25, 0x60, 0x95, 0x13}, reply[16 + READ_BYTES];
        uint64_t offset = htobe64((uint64_t)(random() % blocks) * READ_BYTES);
        uint32_t length = htobe32(READ_BYTES), error;
        memcpy(request + 16, &offset, 8);
        memcpy(request + 24, &length, 4);
        double begin = now();
        give(fd, request, sizeof request);
        take(fd, reply, sizeof reply);
        double end = now();
        memcpy(&error, reply + 4, 4);
        if (error) exit(4);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
        taken[count] = end - begin;
        late[count++] = now() - end - PAUSE_NS / 1e6;
    }
    if (count == 0) return 5;
    qsort(taken, count, sizeof *taken, ascending);
    qsort(late, count, sizeof *late, ascending);
    printf("%ld %.3f %.3f %.3f %.3f %d\n", count, taken[count / 2], taken[count * 99 / 100],
           taken[count - 1], late[count * 99 / 100], fifo);
    return 0;
}
