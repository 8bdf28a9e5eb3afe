#!/bin/sh
# 1100 devices: the top-level mapping tree and the details tree are several nodes each (a node of the
# first holds 252 entries, a leaf of the second 126). Every 25th device has mappings, every 50th a snapshot.
# metadata-bytes: 16777216
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0 skip_block_zeroing
seq -f 'create_thin %g' 1 1000 | pool_messages pool
with=$(seq 25 25 1000)
thin_activate_all all pool 8192 $with
base=0
for id in $with; do
    echo "$id $((id % 7)) $((1 + id % 11)) 3 $base"
    base=$((base + 64))
done | thin_touch all
thin_deactivate all
seq 50 50 1000 | while read -r id; do echo "create_snap $((id * 16000)) $id"; done | pool_messages pool
seq -f 'create_thin %g' 2001 2080 | pool_messages pool
thin_activate thin pool 800000 8192
expect "mapped blocks" $((1 + 50 % 11)) "$(thin_mapped thin)"
thin_deactivate thin
pool_remove pool
