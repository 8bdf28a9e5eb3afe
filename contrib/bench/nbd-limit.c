/* nbd-limit: what a socket leaves of a disk.
 *
 *     nbd-limit SOCKET FILE
 *
 * Answers one client after the other, one request after the other, with one call for each step and
 * nothing between the socket and the file: no server that is asked for one thing at a time can be much
 * faster. Old-style handshake, simple replies. For benchmarks only: what clients send is trusted.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/nbd.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { largest = 2 << 20 };

struct __attribute__((packed)) greeting {
    char password[8];
    uint64_t magic, size;
    uint32_t flags;
    char reserved[124];
};

static int receive(int client, void *buffer, size_t count) {
    return count == 0 || recv(client, buffer, count, MSG_WAITALL) == (ssize_t)count;
}

static int reply(int client, struct nbd_reply *header, void *data, size_t count) {
    struct iovec parts[2] = {{header, sizeof *header}, {data, count}};
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        ssize_t sent = writev(client, parts, 2);
        if (sent < 0) return 0;
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)sent < parts[i].iov_len ? (size_t)sent : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + part;
            parts[i].iov_len -= part;
            sent -= part;
        }
    }
    return 1;
}

static void serve(int client, int file, uint64_t size, char *buffer) {
    struct greeting greeting = {
            .magic = htobe64(0x00420281861253), .size = htobe64(size),
            .flags = htobe32(NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH)};
    memcpy(greeting.password, "NBDMAGIC", 8);
    if (write(client, &greeting, sizeof greeting) != sizeof greeting) return;
    struct nbd_request request;
    while (receive(client, &request, sizeof request)) {
        uint32_t type = be32toh(request.type) & 0xffff, count = be32toh(request.len);
        uint64_t offset = be64toh(request.from);
        if (type == NBD_CMD_DISC || count > largest) return;
        struct nbd_reply header = {.magic = htobe32(NBD_REPLY_MAGIC)};
        memcpy(header.handle, request.handle, sizeof header.handle);
        ssize_t done = count;
        if (type == NBD_CMD_READ) done = pread(file, buffer, count, offset);
        if (type == NBD_CMD_WRITE) {
            if (!receive(client, buffer, count)) return;
            done = pwrite(file, buffer, count, offset);
        }
        if (type == NBD_CMD_FLUSH) done = fdatasync(file) == 0 ? (ssize_t)count : -1;
        if (done != (ssize_t)count) header.error = htobe32(EIO);
        if (!reply(client, &header, buffer, type == NBD_CMD_READ && !header.error ? count : 0)) return;
    }
}

int main(int argc, char **argv) {
    if (argc != 3 || strlen(argv[1]) >= sizeof ((struct sockaddr_un *)0)->sun_path) {
        fprintf(stderr, "usage: nbd-limit SOCKET FILE\n");
        return 2;
    }
    int file = open(argv[2], O_RDWR | O_DIRECT | O_CLOEXEC);
    if (file < 0 && errno == EINVAL) file = open(argv[2], O_RDWR | O_CLOEXEC);
    struct stat info;
    void *buffer;
    if (file < 0 || fstat(file, &info) != 0 || posix_memalign(&buffer, 4096, largest) != 0) {
        perror(argv[2]);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, argv[1]);
    int door = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(door, (struct sockaddr *)&address, sizeof address) != 0 || listen(door, 8) != 0) {
        perror(argv[1]);
        return 1;
    }
    for (;;) {
        int client = accept(door, NULL, NULL);
        if (client < 0) continue;
        serve(client, file, info.st_size, buffer);
        close(client);
    }
}
