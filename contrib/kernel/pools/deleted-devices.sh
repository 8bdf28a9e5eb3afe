#!/bin/sh
# Devices deleted in every position: with and without mappings, an origin whose snapshots live on, a
# snapshot in the middle of a chain, and an id that is used again. The transaction id has moved on.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
printf 'create_thin %s\n' 0 1 2 3 4 5 6 7 8 9 | pool_messages pool
thin_activate_all all pool 8192 0 1 2 3 4
size=$((block_sectors * 512))
printf '%s\n' "0 0 60 1 0" "1 0 60 1 64" "2 5 50 1 128" "3 0 60 1 192" "4 0 1 1 256" | thin_touch all $size
thin_deactivate all
pool_messages pool <<M
set_transaction_id 0 1
create_snap 20 0
create_snap 21 20
create_snap 22 21
set_transaction_id 1 2
delete 0
delete 21
delete 1
delete 7
delete 9
create_thin 1
delete 3
set_transaction_id 2 18446744073709551615
M
thin_activate thin pool 22 8192
thin_verify thin 0 0 60
thin_deactivate thin
thin_activate thin pool 1 8192
thin_write thin 1 0 5
thin_deactivate thin
pool_remove pool
