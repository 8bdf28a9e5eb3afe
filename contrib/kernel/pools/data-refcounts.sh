#!/bin/sh
# Data blocks that are referenced more than twice, so their counts are in the overflow tree of the data
# space map. A leaf that six devices share counts as one reference: each snapshot has to get a leaf of
# its own, which one write to it brings about.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
thin_create pool 0
thin_activate origin pool 0 131072
thin_write origin 0 0 600
for id in 1 2 3 4 5; do
    thin_snapshot pool $id 0 origin
    # Devices 1 to 5 touch ever fewer of the leaves: counts of 2 to 6 in the same tree.
    thin_activate snap pool $id 131072
    echo "$id $((id * 110)) $((6 - id)) 110" | thin_touch snap 65536
    thin_verify snap 0 0 100
    thin_deactivate snap
done
thin_deactivate origin
pool_remove pool
