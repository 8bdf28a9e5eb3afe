#!/bin/sh
# Both devices have grown while in use, the data device twice: space maps whose end has moved, across a
# bitmap's limit (16320 blocks) on both sides. The superblock still tells the first metadata size.
# metadata-bytes: 134217728
# data-bytes: 2147483648
. "$DMTHIN_RIG/lib.sh"

grow() { # NAME SECTORS
    must dmsetup reload "$1" --table "0 $2 linear /dev/$3 0"
    must dmsetup suspend "$1"
    must dmsetup resume "$1"
}

must dmsetup create meta --table "0 8192 linear /dev/ubda 0"
must dmsetup create data --table "0 131072 linear /dev/ubdb 0"
pool_create pool /dev/mapper/meta /dev/mapper/data 128 0
thin_create pool 0
thin_activate thin pool 0 1048576
thin_write thin 0 0 1000
grow data 1048576 ubdb
pool_reload pool /dev/mapper/meta /dev/mapper/data 128 0
expect "data blocks" 1000/8192 "$(pool_field pool 3)"
thin_write thin 0 1000 100
grow meta 262144 ubda
grow data 4194304 ubdb
pool_reload pool /dev/mapper/meta /dev/mapper/data 128 0
expect "data blocks" 1100/32768 "$(pool_field pool 3)"
case $(pool_field pool 2) in */32768) ;; *) fail "metadata did not grow: $(pool_status pool)" ;; esac
thin_snapshot pool 1 0 thin
thin_write thin 0 1050 100
thin_verify thin 0 1000 150
thin_deactivate thin
pool_remove pool
must dmsetup remove meta data
