#include <zlib.h>

// Macros with a cast in them are not seen by Swift.
static inline int dmthin_deflate_begin(z_stream *stream, int level) { return deflateInit(stream, level); }
static inline int dmthin_inflate_begin(z_stream *stream) { return inflateInit(stream); }
