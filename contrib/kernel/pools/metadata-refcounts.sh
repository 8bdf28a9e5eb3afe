#!/bin/sh
# Metadata blocks that are referenced more than twice: seven devices share one tree's root, then four of
# them copy the root and one leaf, which leaves the other leaves with five references each.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
thin_create pool 10
thin_activate origin pool 10 262144
thin_write origin 10 0 1200
thin_deactivate origin
for id in 11 12 13 14 15 16 17 18 19; do thin_snapshot pool $id 10; done
for id in 11 12 13 14; do
    thin_activate snap pool $id 262144
    thin_write snap $id 50 1
    thin_verify snap 10 51 4
    thin_deactivate snap
done
pool_remove pool
