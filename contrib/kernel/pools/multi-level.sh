#!/bin/sh
# One device with 70000 single blocks, each with a hole after it: its tree has three levels (an inner
# node holds 252 entries), and nothing can be told as a range. A snapshot then splits off some paths.
# metadata-bytes: 33554432
# data-bytes: 4831838208
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0 skip_block_zeroing
thin_create pool 1
thin_activate thin pool 1 33554432
echo "1 0 70000 2" | thin_touch thin
expect "mapped blocks" 70000 "$(thin_mapped thin)"
thin_snapshot pool 2 1 thin
echo "1 1001 10 4001" | thin_touch thin
thin_deactivate thin
pool_remove pool
