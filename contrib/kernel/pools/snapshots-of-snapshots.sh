#!/bin/sh
# A chain of snapshots nine deep, each written to before the next is taken, and branches off it: times,
# shared nodes at every age, blocks shared by some of the devices only.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
thin_create pool 0
thin_activate thin pool 0 65536
thin_write thin 0 0 300
for id in 1 2 3 4 5 6 7 8 9; do
    thin_snapshot pool $id $((id - 1)) thin
    thin_deactivate thin
    thin_activate thin pool $id 65536
    thin_write thin $id $((id * 30)) 7
done
thin_verify thin 0 0 30
thin_verify thin 4 120 7
thin_verify thin 9 270 7
thin_deactivate thin

# Two branches from the middle, one of which loses most of what it inherited.
thin_snapshot pool 44 4
thin_snapshot pool 45 4
thin_activate thin pool 45 65536
thin_discard thin 20 270
thin_write thin 45 400 5
thin_deactivate thin
pool_remove pool
