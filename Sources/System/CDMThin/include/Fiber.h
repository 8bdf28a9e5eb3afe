// Code on a stack of its own, which can be left and entered again.
#ifndef CDMTHIN_FIBER_H
#define CDMTHIN_FIBER_H

#include <stddef.h>

typedef struct dmthin_fiber dmthin_fiber;

/// A stack of `stack_bytes`, a multiple of the page size, on which `body` is called with `argument` each
/// time that it is entered after it has returned. NULL where there is no memory for it.
dmthin_fiber *dmthin_fiber_make(size_t stack_bytes, void (*body)(void *), void *argument);

/// Goes on with the body until it returns or leaves.
void dmthin_fiber_enter(dmthin_fiber *fiber);

/// Within the body: returns from `dmthin_fiber_enter`, until that is called again.
void dmthin_fiber_leave(dmthin_fiber *fiber);

/// Gives the stack back; nothing on it is running.
void dmthin_fiber_free(dmthin_fiber *fiber);

#endif
