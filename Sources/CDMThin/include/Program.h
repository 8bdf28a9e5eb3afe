// What every program does before anything else.
#ifndef DMTHIN_PROGRAM_H
#define DMTHIN_PROGRAM_H

#include <stdint.h>

/// Makes sure of what the rest of a program takes for granted. To be called first in `main`:
///
/// - Descriptors 0, 1 and 2 are open. Where the caller has closed one, the next file to be opened would
///   get its number, and a message for the standard error would be written over that file. /dev/null
///   takes its place (without a /dev, the root folder).
/// - A limit on file sizes (RLIMIT_FSIZE) makes a write fail with EFBIG, and does not end the program
///   with SIGXFSZ.
///
/// Ends the program with status 74 where neither can be opened.
void dmthin_begin_program(void);

/// Whether descriptor `fd`, 0 to 2, was closed when the program began.
int dmthin_was_closed(int fd);

/// Starts a program that outlives this process: in a session of its own, in the root folder, with standard
/// input from /dev/null, standard output and error to `log`, every other descriptor closed, and signals as
/// at boot. It inherits the environment, but for what a service manager has told this process alone.
/// `arguments` ends with a null pointer; its first is the program's path.
/// Returns its process id, or the negative error number.
int dmthin_start_program(char *const *arguments, int log);

#endif
