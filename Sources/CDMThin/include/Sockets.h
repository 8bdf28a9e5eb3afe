// What the servers need of the system that Swift's Glibc module leaves out or cannot say.
#ifndef DMTHIN_SOCKETS_H
#define DMTHIN_SOCKETS_H

#include <stdint.h>
#include <sys/types.h>

/// Accepts a connection, not blocking, closed on exec; -1 with errno set.
int dmthin_accept(int fd);

/// A stream socket of `family`, not blocking, closed on exec; -1 with errno set.
int dmthin_stream_socket(int family);

/// Two stream sockets that are connected with each other, not blocking, closed on exec; -1 with errno
/// set.
int dmthin_stream_pair(int ends[2]);

/// Binds a unix socket to `path`, for its owner alone; -1 with errno set.
int dmthin_bind_unix(int fd, const char *path);

/// Connects a unix socket to `path`; -1 with errno set.
int dmthin_connect_unix(int fd, const char *path);

/// The user at the other end of a unix socket; -1 with errno set.
int dmthin_peer_user(int fd, uint32_t *user);

/// Blocks the signals of a mask (bit n is signal n) and makes a descriptor that becomes readable
/// when one arrives; -1 with errno set.
int dmthin_signal_descriptor(uint64_t mask);

/// The next signal of such a descriptor; -1 with errno set, EAGAIN where there is none.
int dmthin_next_signal(int fd);

/// Tells the service manager, whose socket is at `path` (`@` for an abstract one); -1 with errno set.
int dmthin_notify(const char *path, const char *text);

#endif
