// Parts of the system that the servers need and Swift's Glibc module lacks.
#ifndef DMTHIN_SOCKETS_H
#define DMTHIN_SOCKETS_H

#include <stdint.h>
#include <sys/types.h>

/// Accepts a connection: non-blocking, closed on exec. Returns -1 with errno set on failure.
int dmthin_accept(int fd);

/// Creates a stream socket of `family`: non-blocking, closed on exec. Returns -1 with errno set on
/// failure.
int dmthin_stream_socket(int family);

/// Creates two connected stream sockets: non-blocking, closed on exec. Returns -1 with errno set on
/// failure.
int dmthin_stream_pair(int ends[2]);

/// Binds a unix socket to `path`, accessible by its owner only. Returns -1 with errno set on
/// failure.
int dmthin_bind_unix(int fd, const char *path);

/// Connects a unix socket to `path`; -1 with errno set.
int dmthin_connect_unix(int fd, const char *path);

/// The user at the other end of a unix socket; -1 with errno set.
int dmthin_peer_user(int fd, uint32_t *user);

/// Blocks the signals in a mask (bit n is signal n) and creates a descriptor that becomes readable
/// when one arrives. Returns -1 with errno set on failure.
int dmthin_signal_descriptor(uint64_t mask);

/// Reads the next signal from such a descriptor. Returns -1 with errno set, EAGAIN if there is
/// none.
int dmthin_next_signal(int fd);

/// Sends a notification to the service manager at `path` (`@` for an abstract socket). Returns -1
/// with errno set on failure.
int dmthin_notify(const char *path, const char *text);

#endif
