// Longjmp to another stack is what this is about; the fortified one takes that for damage.
#undef _FORTIFY_SOURCE
#define _GNU_SOURCE
#include "CDMThin.h"
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

// A context is made by makecontext, and entered and left by setjmp and longjmp, which cost no system call.
struct dmthin_fiber {
    jmp_buf inside;
    jmp_buf outside;
    ucontext_t first;
    int has_begun;
    void (*body)(void *);
    void *argument;
    void *memory;
    size_t bytes;
};

static void run(unsigned low, unsigned high) {
    struct dmthin_fiber *fiber = (void *)((uintptr_t)low | (uintptr_t)high << 32);
    for (;;) {
        fiber->body(fiber->argument);
        dmthin_fiber_leave(fiber);
    }
}

dmthin_fiber *dmthin_fiber_make(size_t stack_bytes, void (*body)(void *), void *argument) {
    dmthin_fiber *fiber = calloc(1, sizeof *fiber);
    if (!fiber) return NULL;
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    fiber->body = body;
    fiber->argument = argument;
    fiber->bytes = stack_bytes + guard;
    fiber->memory = mmap(NULL, fiber->bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (fiber->memory == MAP_FAILED) {
        free(fiber);
        return NULL;
    }
    // What is too deep ends the process, and overwrites nothing.
    if (mprotect(fiber->memory, guard, PROT_NONE) != 0 || getcontext(&fiber->first) != 0) {
        dmthin_fiber_free(fiber);
        return NULL;
    }
    fiber->first.uc_stack.ss_sp = (char *)fiber->memory + guard;
    fiber->first.uc_stack.ss_size = stack_bytes;
    fiber->first.uc_link = NULL;
    uintptr_t address = (uintptr_t)fiber;
    makecontext(&fiber->first, (void (*)(void))run, 2, (unsigned)address,
                (unsigned)((uint64_t)address >> 32));
    return fiber;
}

void dmthin_fiber_enter(dmthin_fiber *fiber) {
    if (_setjmp(fiber->outside) != 0) return;
    if (fiber->has_begun) _longjmp(fiber->inside, 1);
    fiber->has_begun = 1;
    setcontext(&fiber->first);
}

void dmthin_fiber_leave(dmthin_fiber *fiber) {
    if (_setjmp(fiber->inside) == 0) _longjmp(fiber->outside, 1);
}

void dmthin_fiber_free(dmthin_fiber *fiber) {
    munmap(fiber->memory, fiber->bytes);
    free(fiber);
}
