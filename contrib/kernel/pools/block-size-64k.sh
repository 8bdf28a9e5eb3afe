#!/bin/sh
# The smallest block size. Random places in two devices and a snapshot, so that runs are short.
# metadata-bytes: 8388608
# data-bytes: 268435456
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 100
thin_create pool 1
thin_create pool 2
thin_activate a pool 1 2097152
thin_activate b pool 2 2097152
awk 'BEGIN { for (i = 0; i < 600; i++) { n = (n * 4861 + 7919) % 16384; print 1, n, 1 + i % 3, 1 } }' | thin_touch a
awk 'BEGIN { for (i = 0; i < 400; i++) { n = (n * 1103 + 12345) % 16384; print 2, n, 1, 1 } }' | thin_touch b
thin_snapshot pool 3 1 a
echo "1 0 30 500" | thin_touch a
thin_deactivate a b
pool_remove pool
