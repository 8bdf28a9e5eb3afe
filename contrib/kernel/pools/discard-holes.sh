#!/bin/sh
# Holes at every scale: each third block, then a larger stretch, is discarded, and part of the holes is
# written again, so that neighbouring blocks of the device lie far apart on the data device.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0 skip_block_zeroing
thin_create pool 5
thin_create pool 6
thin_activate a pool 5 131072
thin_activate b pool 6 131072
thin_write a 5 0 700
awk 'BEGIN { for (i = 0; i < 120; i += 3) print i, 1 }' | thin_discards a
thin_discard a 300 200
echo "6 0 100 4" | thin_touch b
# Backwards, into every other hole.
awk 'BEGIN { for (i = 117; i >= 0; i -= 12) print 5, i, 1, 1 }' | thin_touch a
thin_verify a 5 500 10
expect "mapped in a" 470 "$(thin_mapped a)"
thin_deactivate a b
pool_remove pool
