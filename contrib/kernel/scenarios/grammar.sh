#!/bin/sh
# The kernel's answers to tables, valid and invalid, and the output of targets in every mode. The
# test that runs this compares it with the parsers of DeviceMapper.
#
# usage: contrib/kernel/run scenarios/grammar.sh META DATA -- TABLES
#
#   META, DATA  images of zeros, 4 MiB and 64 MiB
#   TABLES      a file with a table on each line, its lines separated by commas: contrib/kernel/tables
#
# Prints "case N TABLE", and if the kernel accepts it, its output: "table LINE", "status LINE". For
# pools and thin devices in every mode: "mode NAME", then such lines. After "log" comes the kernel's
# log, in which "case N" precedes the kernel's messages about table N.
. "$DMTHIN_RIG/lib.sh"

tables=${1:?names a file with tables}
dmesg -n 1
# Otherwise only a few lines are logged every few seconds.
echo on >/proc/sys/kernel/printk_devkmsg
show() { # DEVICE...
    for device; do
        dmsetup table "$device" | sed 's/^/table /'
        dmsetup status "$device" | sed 's/^/status /'
    done
}
mode() { echo "mode $1"; shift; show "$@"; }

# The kernel keeps the last 16 KiB of its log.
keep_log() { dmesg -c | grep -o 'case [0-9]*$\|device-mapper: .*' >>/tmp/log || :; }

n=0
while read -r table; do
    n=$((n + 1))
    [ $((n % 25)) -ne 0 ] || keep_log
    echo "case $n $table"
    echo "case $n" >/dev/kmsg
    if dmsetup create --concise "case,,,,$table" 2>/dev/null; then
        show case
        dmsetup remove case
    fi
done <"$tables"
keep_log

# Pool and thin device in every mode. The metadata device can be made to fail.
meta=$(blockdev --getsz /dev/ubda)
swap() { # TABLE: what the metadata device is
    must dmsetup load meta --table "$1"
    must dmsetup suspend --noflush --nolockfs meta
    must dmsetup resume meta
}
fresh() { # FEATURE...: a new pool of 8 blocks, with a thin device
    for device in thin pool meta; do dmsetup remove $device 2>/dev/null || :; done
    must dd if=/dev/zero of=/dev/ubda bs=1M count=1 conv=fsync,notrunc status=none
    must dmsetup create meta --table "0 $meta linear /dev/ubda 0"
    must dmsetup create pool --table "0 1024 thin-pool /dev/mapper/meta /dev/ubdb 128 2 $# $*"
    thin_create pool 1
    thin_create pool 2
    thin_activate thin pool 1 4096
}
fill() { thin_write thin 1 0 8; }

block_sectors=128
fresh
mode new pool thin
thin_write thin 1 3 1
pool_message pool reserve_metadata_snap
pool_message pool set_transaction_id 0 18446744073709551615
mode held pool thin
thin_activate other pool 2 4096
must dmsetup remove other
must dmsetup create origin --table "0 4096 linear /dev/ubdb 8192"
must dmsetup create other --table "0 4096 thin /dev/mapper/pool 2 /dev/mapper/origin"
mode external-origin other
must dmsetup remove other origin
for features in "skip_block_zeroing" "ignore_discard" "no_discard_passdown" "error_if_no_space" \
    "error_if_no_space no_discard_passdown ignore_discard skip_block_zeroing"; do
    # shellcheck disable=SC2086  # words are features
    fresh $features
    mode "$features" pool thin
done
fresh error_if_no_space
fill
dd if=/dev/zero of=/dev/mapper/thin bs=64k seek=8 count=1 oflag=direct status=none 2>/dev/null || :
mode out-of-data-error pool thin
fresh
fill
dd if=/dev/zero of=/dev/mapper/thin bs=64k seek=8 count=1 oflag=direct status=none 2>/dev/null &
sleep 0.5
mode out-of-data-queue pool thin
pool_reload pool /dev/mapper/meta /dev/ubdb 128 2
wait
mode grown pool thin
must dmsetup load pool --table "0 1024 thin-pool /dev/mapper/meta /dev/ubdb 128 7 1 read_only"
echo "mode inactive"
dmsetup table --inactive pool | sed 's/^/table /'
dmsetup status --inactive pool | sed 's/^/status /'

# Only this one of the rig's disks supports discards.
if [ -w /sys/block/zram0/disksize ]; then
    dmsetup remove thin pool
    echo 1M >/sys/block/zram0/disksize
    must dd if=/dev/zero of=/dev/mapper/meta bs=4096 count=1 oflag=direct status=none
    must dmsetup create pool --table "0 1024 thin-pool /dev/mapper/meta /dev/zram0 128 2"
    mode discards pool
fi
fresh
must dmsetup load pool --table "0 1024 thin-pool /dev/mapper/meta /dev/ubdb 128 2 1 read_only"
must dmsetup resume pool
mode read-only pool thin
fresh
swap "0 $meta flakey /dev/ubda 0 0 60 1 error_writes"
dmsetup message pool 0 create_thin 9 2>/dev/null || :
mode needs-check pool thin
fresh
swap "0 $meta error"
dmsetup message pool 0 create_thin 9 2>/dev/null || :
mode failed pool thin
swap "0 $meta linear /dev/ubda 0"
dmsetup remove thin pool meta

# A snapshot in each of its states.
must dmsetup create origin --table "0 8192 linear /dev/ubdb 0"
must dd if=/dev/zero of=/dev/ubda bs=4096 count=16 conv=fsync,notrunc status=none
must dmsetup create cow --table "0 64 linear /dev/ubda 0"
must dmsetup create top --table "0 8192 snapshot-origin /dev/mapper/origin"
must dmsetup create snap --table "0 8192 snapshot /dev/mapper/origin /dev/mapper/cow PO 8 1 discard_zeroes_cow"
mode snapshot top snap
dd if=/dev/zero of=/dev/mapper/snap bs=4k count=9 oflag=direct status=none 2>/dev/null || :
mode snapshot-overflow snap
must dmsetup remove snap
must dd if=/dev/zero of=/dev/ubda bs=4096 count=16 conv=fsync,notrunc status=none
must dmsetup create snap --table "0 8192 snapshot /dev/mapper/origin /dev/mapper/cow P 8"
dd if=/dev/zero of=/dev/mapper/snap bs=4k count=9 oflag=direct status=none 2>/dev/null || :
mode snapshot-invalid snap
must dmsetup remove snap
must dmsetup create snap --table "0 8192 snapshot /dev/mapper/origin /dev/mapper/cow N 16"
mode snapshot-transient snap
must dmsetup remove snap top
must dd if=/dev/zero of=/dev/ubda bs=4096 count=16 conv=fsync,notrunc status=none
must dmsetup create snap --table "0 8192 snapshot /dev/mapper/origin /dev/mapper/cow P 8"
must dd if=/dev/zero of=/dev/mapper/snap bs=4k count=1 oflag=direct status=none
must dmsetup remove snap
must dmsetup create top --table "0 8192 snapshot-merge /dev/mapper/origin /dev/mapper/cow P 8"
mode snapshot-merge top
must dmsetup remove top cow origin

# A failed stripe, and waiting requests.
must dmsetup create broken --table "0 1024 error"
must dmsetup create striped --table "0 2048 striped 2 8 /dev/mapper/broken 0 /dev/ubdb 0"
dd if=/dev/mapper/striped of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null || :
mode striped striped
must dmsetup remove striped broken
must dmsetup create slow --table "0 1024 delay /dev/ubdb 0 0 /dev/ubdb 0 2000"
dd if=/dev/zero of=/dev/mapper/slow bs=4k count=1 oflag=direct status=none &
sleep 0.5
mode delay slow
wait
must dmsetup remove slow

echo log
cat /tmp/log
