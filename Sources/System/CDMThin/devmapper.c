// Parts of device-mapper's interface that Swift cannot express: a variadic function for
// libdevmapper's log, an ioctl for which the library has no call, and variadic calls for the
// semaphores of udev's cookies.
#include "CDMThin.h"

#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/sem.h>

static dmthin_dm_log_sink log_sink;

void dmthin_dm_log_to(dmthin_dm_log_sink sink) { log_sink = sink; }

__attribute__((format(printf, 5, 6)))
static void dm_log_line(int level, const char *file, int line, int code, const char *format, ...) {
    (void)file, (void)line, (void)code;
    if (!log_sink) return;
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length >= 0) log_sink(level, text);
}

void *dmthin_dm_log_function(void) { return (void *)dm_log_line; }

int dmthin_dm_arm_events(int fd) {
    // Version 4.37 of the interface has this ioctl; the kernel compares only the major number.
    struct dm_ioctl request = {.version = {DM_VERSION_MAJOR, 0, 0}, .data_size = sizeof request};
    return ioctl(fd, DM_DEV_ARM_POLL, &request);
}

int dmthin_semaphore_value(int set) { return semctl(set, 0, GETVAL); }

int dmthin_semaphore_remove(int set) { return semctl(set, 0, IPC_RMID); }
