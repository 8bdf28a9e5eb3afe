#define _GNU_SOURCE
#include "Program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned was_closed;

// A chroot may have no /dev. Then a folder takes its place: it occupies the number, and reads and
// writes fail.
static void open_null(int fd) {
    int opened = open("/dev/null", O_RDWR);
    if (opened < 0) opened = open("/", O_RDONLY | O_DIRECTORY);
    if (opened < 0) _exit(74);
    // The lowest free number is this one, because those below are open.
    if (opened != fd) {
        if (dup2(opened, fd) < 0) _exit(74);
        close(opened);
    }
}

void dmthin_begin_program(void) {
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        was_closed |= 1u << fd;
        open_null(fd);
    }
    signal(SIGXFSZ, SIG_IGN);
}

int dmthin_was_closed(int fd) { return fd >= 0 && fd <= 2 && (was_closed >> fd & 1); }

int dmthin_start_program(char *const *arguments, int log) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    // A service manager expects notifications from this process, and has passed sockets to it.
    static const char *const own[] = {"NOTIFY_SOCKET=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="};
    size_t count = 0;
    for (char **entry = environ; *entry; entry++) count++;
    char **environment = calloc(count + 1, sizeof(char *));
    if (!environment) return -ENOMEM;
    size_t kept = 0;
    for (char **entry = environ; *entry; entry++) {
        int is_own = 0;
        for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
            if (!strncmp(*entry, own[i], strlen(own[i]))) is_own = 1;
        if (!is_own) environment[kept++] = *entry;
    }
    pid_t pid = 0;
    int status = posix_spawn_file_actions_init(&files);
    if (status == 0) {
        status = posix_spawnattr_init(&attributes);
        if (status == 0) {
            posix_spawnattr_setflags(
                &attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
            posix_spawnattr_setsigmask(&attributes, &none);
            posix_spawnattr_setsigdefault(&attributes, &all);
            status = posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
            if (status == 0) status = posix_spawn_file_actions_adddup2(&files, log, 1);
            if (status == 0) status = posix_spawn_file_actions_adddup2(&files, log, 2);
            if (status == 0) status = posix_spawn_file_actions_addclosefrom_np(&files, 3);
            if (status == 0) status = posix_spawn_file_actions_addchdir_np(&files, "/");
            if (status == 0)
                status = posix_spawn(&pid, arguments[0], &files, &attributes, arguments, environment);
            posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&files);
    }
    free(environment);
    return status == 0 ? pid : -status;
}
