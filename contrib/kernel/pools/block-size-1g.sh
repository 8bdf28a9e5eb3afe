#!/bin/sh
# The largest block size. Blocks are not zeroed and only their first 4 KiB are written, so the images
# stay small; a snapshot's blocks are not written, as each would be a copy of 1 GiB.
# metadata-bytes: 8388608
# data-bytes: 137438953472
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 2097152 0 skip_block_zeroing
expect "data blocks" 0/128 "$(pool_field pool 3)"
thin_create pool 1
thin_create pool 2
thin_activate a pool 1 4398046511104
thin_activate b pool 2 209715200
printf '%s\n' "1 0 20 1" "1 1000 10 3" "1 2097151 1 1" | thin_touch a
echo "2 5 30 2" | thin_touch b
thin_snapshot pool 3 1 a
expect "mapped in a" 31 "$(thin_mapped a)"
thin_deactivate a b
pool_remove pool
