#!/bin/sh
# A pool whose last commit failed: the metadata on disk says needs_check and is otherwise that of the
# commit before. The kernel sets the flag in its cache only and writes it when the pool is removed, so
# the metadata device has to work again by then.
# metadata-bytes: 8388608
# data-bytes: 67108864
. "$DMTHIN_RIG/lib.sh"

size=$(blockdev --getsz /dev/ubda)
metadata_is() { # TABLE of the device between the pool and /dev/ubda
    must dmsetup reload meta --table "0 $size $1"
    must dmsetup suspend --noflush --nolockfs meta
    must dmsetup resume meta
}

must dmsetup create meta --table "0 $size linear /dev/ubda 0"
pool_create pool /dev/mapper/meta /dev/ubdb 128 0
thin_create pool 0
thin_create pool 1
thin_activate thin pool 0 65536
thin_write thin 0 0 100
thin_snapshot pool 2 0 thin

# Up for zero seconds and down for an hour: reads work, every write is an error.
metadata_is "flakey /dev/ubda 0 0 3600 1 error_writes"
# The message itself may succeed: a failing commit after it shows only in the pool's mode.
dmsetup message pool 0 "create_thin 99" 2>/dev/null || :
expect "mode" ro "$(pool_field pool 5)"
expect "check" needs_check "$(pool_field pool 8)"
thin_verify thin 0 0 100
metadata_is "linear /dev/ubda 0"
expect "mode" ro "$(pool_field pool 5)"
thin_deactivate thin
pool_remove pool

# The flag is on disk: the pool refuses to be writable.
pool_create pool /dev/mapper/meta /dev/ubdb 128 0
expect "mode" ro "$(pool_field pool 5)"
expect "check" needs_check "$(pool_field pool 8)"
pool_remove pool
must dmsetup remove meta
