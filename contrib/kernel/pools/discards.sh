#!/bin/sh
# Discards with passdown and without: of parts, of whole devices, of blocks that a snapshot still has.
#
# The kernel passes discards down only if the data device takes whole blocks at once; a rig's disk takes
# 32 KiB. So the data device is a file in memory, copied to the disk at the end.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

truncate -s "$(blockdev --getsize64 /dev/ubdb)" /tmp/data
data=$(losetup --find --show /tmp/data) || fail "no loop device"
used_kib() { du -k /tmp/data | cut -f1; }

pool_create pool /dev/ubda "$data" 128 0
expect "discards" discard_passdown "$(pool_field pool 6)"
thin_create pool 0
thin_create pool 1
thin_create pool 2
thin_activate a pool 0 65536
thin_activate b pool 1 65536
thin_activate c pool 2 65536
thin_write a 0 0 200
thin_write b 1 0 200
thin_write c 2 0 200

sync
before=$(used_kib)
thin_discard a 8 16
expect "KiB given back" $((16 * 64)) $((before - $(used_kib)))
thin_snapshot pool 3 0 a
thin_discard a 100 40
expect "KiB given back, the snapshot having them" $((16 * 64)) $((before - $(used_kib)))
expect "mapped in a" 144 "$(thin_mapped a)"
thin_verify_zero a 100 40

pool_reload pool /dev/ubda "$data" 128 0 no_discard_passdown
expect "discards" no_discard_passdown "$(pool_field pool 6)"
thin_discard b 0 100
thin_discard b 150 1
expect "mapped in b" 99 "$(thin_mapped b)"
# All of a device: the tree is empty again, but still exists.
thin_discard c 0 512
expect "mapped in c" 0 "$(thin_mapped c)"

thin_activate snap pool 3 65536
thin_verify snap 0 100 40
thin_deactivate a b c snap
expect "KiB given back" $((16 * 64)) $((before - $(used_kib)))
pool_remove pool
must dd if="$data" of=/dev/ubdb bs=64k conv=sparse,notrunc status=none
must losetup -d "$data"
