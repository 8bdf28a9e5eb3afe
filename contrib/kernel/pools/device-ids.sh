#!/bin/sh
# The smallest and the largest device id (0 and 2^24 - 1), both with mappings and snapshots.
# metadata-bytes: 8388608
# data-bytes: 67108864
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
for id in 0 16777215; do
    thin_create pool $id
    thin_activate thin pool $id 16384
    thin_write thin $id 3 20
    thin_deactivate thin
done
thin_snapshot pool 16777214 0
thin_snapshot pool 1 16777215
thin_activate thin pool 16777214 16384
thin_verify thin 0 3 20
thin_write thin 16777214 10 2
thin_deactivate thin
if dmsetup message pool 0 "create_thin 16777216" 2>/dev/null; then fail "id 16777216 was accepted"; fi
pool_remove pool
