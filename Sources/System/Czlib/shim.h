#include <zlib.h>

// Swift does not import macros that contain a cast.
static inline int dmthin_deflate_begin(z_stream *stream, int level) { return deflateInit(stream, level); }
static inline int dmthin_inflate_begin(z_stream *stream) { return inflateInit(stream); }
