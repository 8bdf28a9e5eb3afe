#!/bin/sh
# A block size that is not a power of two (the kernel has a separate path for these), and devices
# whose sizes are not a multiple of it: the last data block is not used, a thin device ends inside a
# block.
# metadata-bytes: 8388608
# data-bytes: 134283264
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 384 10
expect "data blocks" 0/683 "$(pool_field pool 3)"
thin_create pool 1
thin_activate a pool 1 200000
thin_write a 1 0 100
thin_write a 1 200 70
# The device's last sectors: 200000 = 520 * 384 + 320.
must dd if=/dev/urandom of=/dev/mapper/a bs=512 seek=199999 count=1 conv=notrunc,fsync status=none
expect "mapped in a" 171 "$(thin_mapped a)"
thin_snapshot pool 2 1 a
thin_write a 1 90 20
thin_discard a 210 30
thin_verify a 1 240 30
thin_deactivate a
pool_remove pool
