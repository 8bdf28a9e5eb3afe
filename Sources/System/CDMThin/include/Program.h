// The start of every program.
#ifndef DMTHIN_PROGRAM_H
#define DMTHIN_PROGRAM_H

#include <stdint.h>

/// Establishes what the rest of a program assumes. Must be called first in `main`:
///
/// - Descriptors 0, 1 and 2 are open. If the caller has closed one, the next opened file would get
///   its number, and a message on standard error would overwrite that file. /dev/null takes its
///   place (without a /dev, the root folder).
/// - A limit on file sizes (RLIMIT_FSIZE) makes a write fail with EFBIG, instead of ending the
///   program with SIGXFSZ.
///
/// Ends the program with status 74 if neither can be opened.
void dmthin_begin_program(void);

/// Whether descriptor `fd`, 0 to 2, was closed when the program started.
int dmthin_was_closed(int fd);

/// Starts a program that outlives this process: in a new session, in the root folder, with standard
/// input from /dev/null, standard output and error to `log`, all other descriptors closed, and
/// default signals. It inherits the environment, except for a service manager's variables, which
/// are for this process only.
/// `arguments` ends with a null pointer; the first is the program's path.
/// Returns its process id, or the negative error number.
int dmthin_start_program(char *const *arguments, int log);

#endif
