// Time that only goes forward.
#ifndef DMTHIN_TIME_H
#define DMTHIN_TIME_H

#include <stdint.h>

/// Nanoseconds of the system's monotonic clock. Not inline: what it needs of <time.h> would become this
/// module's, and no longer Glibc's, for all Swift that imports both.
uint64_t dmthin_monotonic_nanoseconds(void);

#endif
