#define _GNU_SOURCE
#include "Sockets.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int dmthin_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC); }

int dmthin_stream_socket(int family) {
    return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

int dmthin_stream_pair(int ends[2]) {
    return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends);
}

static int unix_address(struct sockaddr_un *address, const char *path) {
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof address->sun_path) {
        errno = length == 0 ? EINVAL : ENAMETOOLONG;
        return -1;
    }
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length + 1);
    return 0;
}

int dmthin_bind_unix(int fd, const char *path) {
    struct sockaddr_un address;
    if (unix_address(&address, path)) return -1;
    // The mode that the socket has before it gets its name, so that other users can connect at no moment. By
    // the mask instead, files that other threads create meanwhile would get it, and two calls at the same
    // time could leave it set.
    if (fchmod(fd, 0600)) return -1;
    return bind(fd, (struct sockaddr *)&address, sizeof address);
}

int dmthin_connect_unix(int fd, const char *path) {
    struct sockaddr_un address;
    if (unix_address(&address, path)) return -1;
    return connect(fd, (struct sockaddr *)&address, sizeof address);
}

int dmthin_peer_user(int fd, uint32_t *user) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length)) return -1;
    *user = peer.uid;
    return 0;
}

int dmthin_signal_descriptor(uint64_t mask) {
    sigset_t set;
    sigemptyset(&set);
    for (int signal = 1; signal < 64; signal++)
        if (mask >> signal & 1) sigaddset(&set, signal);
    if (sigprocmask(SIG_BLOCK, &set, NULL)) return -1;
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

int dmthin_next_signal(int fd) {
    struct signalfd_siginfo info;
    ssize_t n = read(fd, &info, sizeof info);
    if (n == sizeof info) return (int)info.ssi_signo;
    if (n >= 0) errno = EAGAIN;
    return -1;
}

int dmthin_notify(const char *path, const char *text) {
    struct sockaddr_un address;
    if (unix_address(&address, path)) return -1;
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (address.sun_path[0] == '@') address.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    ssize_t n = sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT,
                       (struct sockaddr *)&address, length);
    close(fd);
    return n < 0 ? -1 : 0;
}
