#!/bin/sh
# Files out of a pool that the kernel wrote, after its data device got bad sectors and its metadata was damaged:
# "dmthin extract" and "dmthin serve --rescue", with the kernel's loop devices, NBD client and ext4.
#
# usage: contrib/kernel/run scenarios/rescue.sh META DATA TARGET
#
#   META, DATA, TARGET  images of zeros, 8 MiB, 128 MiB and 64 MiB
#
# DMTHIN_TOOLS names the directory of dmthin. Needs nbd-client, e2fsprogs, python3 and gddrescue.
. "$DMTHIN_RIG/verbs.sh"

meta=/dev/ubda data=/dev/ubdb target=/dev/ubdc
# As on all systems with loop devices.
must mkdir -p /tmp/files /tmp/saved

extract() { # STATUS ARGUMENT...
    local wanted=$1 status=0; shift
    "$dmthin" extract --metadata $meta --data /dev/mapper/disk "$@" >/tmp/out 2>/tmp/err || status=$?
    expect "status of extract $* ($(cat /tmp/out /tmp/err))" "$wanted" $status
}
sums() { (cd "$1" && find . -type f -exec sha256sum {} + | sort); }
disk() { # a table of the data device, from the standard input
    dmsetup reload disk
    must dmsetup resume disk
}

# --- a volume with files, written by the kernel
sectors=$(blockdev --getsz $data)
must dmsetup create disk --table "0 $sectors linear $data 0"
pool create p --metadata $meta --data /dev/mapper/disk --block-size 64k
pool create-thin p 1 --activate t1 --size 60m
quietly mke2fs -q -t ext4 /dev/mapper/t1
must mount -t ext4 /dev/mapper/t1 /mnt
for i in $(seq 40); do head -c $((i * 20011)) /dev/urandom >"/mnt/$i"; done
sums /mnt >/tmp/sums
must umount /mnt
must cp --sparse=always /dev/mapper/t1 /tmp/t1
pool deactivate --all p

# --- over an external origin, which is shorter than the volume, and not a multiple of blocks
origin=$(losetup --find --show --read-only /tmp/t1)
must truncate -s 10000384 /tmp/short
must dd if=/tmp/t1 of=/tmp/short bs=512 count=19000 conv=notrunc 2>/tmp/log
short=$(losetup --find --show --read-only /tmp/short)
pool activate p --metadata $meta --data /dev/mapper/disk
for id in 2 3; do
    pool create-thin p $id
    case $id in 2) device=$origin ;; 3) device=$short ;; esac
    pool activate-thin p t$id $id 62m --external-origin "$device"
    # Parts of blocks: the kernel copies the rest of each from the origin.
    for at in 3 500 9000 90000 125000; do
        must dd if=/dev/urandom of=/dev/mapper/t$id bs=512 count=5 seek=$at oflag=direct conv=notrunc 2>/tmp/log
    done
    must cp --sparse=never /dev/mapper/t$id /tmp/t$id
done
pool deactivate --all p
for id in 2 3; do
    case $id in 2) device=$origin ;; 3) device=$short ;; esac
    extract 0 $id -o /tmp/over$id --size 62m
    grep -q "With --origin $device they are copied" /tmp/err || fail "$(cat /tmp/err)"
    extract 0 $id -o /tmp/over$id --size 62m --origin "$device" --force
    must cmp /tmp/over$id /tmp/t$id
    must rm /tmp/over$id /tmp/t$id
    pool delete $meta $id
done
extract 73 1 -o /tmp/short --origin "$short" --force
must losetup -d "$origin" "$short"
say "over an external origin"

# --- bad sectors: two of a mapped block
block=$("$dmthin" dump $meta | sed -n 's/.*range_mapping origin_begin="\([0-9]*\)" data_begin="\([0-9]*\)" length.*/\1 \2/p' |
    tail -n 1)
[ -n "$block" ] || fail "no range is mapped"
virtual=${block% *} bad=$((${block#* } * 128 + 5))
printf '0 %s linear %s 0\n%s 2 error\n%s %s linear %s %s\n' \
    $bad $data $bad $((bad + 2)) $((sectors - bad - 2)) $data $((bad + 2)) | disk
extract 74 1 -o /tmp/image --size 60m --retry 1
place=$((virtual * 65536 + 5 * 512))
grep -q "unreadable: bytes $place..$((place + 1023)), 1024 bytes" /tmp/out || fail "$(cat /tmp/out)"
expect 'bad sectors of the map' "$((place / 512)) $((place / 512 + 1)) " "$(ddrescuelog -l- /tmp/image.map | tr '\n' ' ')"
dd if=/dev/zero of=/tmp/t1.bad bs=512 count=2 2>/tmp/log
cp --sparse=always /tmp/t1 /tmp/expected
dd if=/tmp/t1.bad of=/tmp/expected bs=512 seek=$((place / 512)) conv=notrunc 2>/tmp/log
must cmp /tmp/image /tmp/expected
say "two bad sectors are missing, and nothing else"

# The disk has rested.
echo "0 $sectors linear $data 0" | disk
extract 0 1 -o /tmp/image --size 60m
grep -q 'complete; 1024 bytes copied' /tmp/out || fail "$(cat /tmp/out)"
must cmp /tmp/image /tmp/t1
must ddrescuelog -D /tmp/image.map
must mount -o ro,noload,loop /tmp/image /mnt
expect 'files of the image' "$(cat /tmp/sums)" "$(sums /mnt)"
must umount /mnt
grep -q 'next: mount -o ro,noload,loop /tmp/image' /tmp/out || fail "$(cat /tmp/out)"
say "they are read later, and the files are those of the volume"

# --- onto a block device, which must be empty
tr '\0' 'x' </dev/zero | head -c 64M >$target
extract 73 1 -o $target --size 60m --map /tmp/target.map
extract 2 1 -o $target --size 60m
extract 0 1 -o $target --size 60m --map /tmp/target.map --force
must cmp -n $((60 * 1048576)) $target /tmp/t1
extract 73 1 -o /dev/mapper/disk --size 60m --map /tmp/other.map --force
extract 73 1 -o $data --size 60m --map /tmp/other.map --force
say "onto a device, where what is not mapped is zeroed"

# --- the superblock is lost: the pool cannot be opened
must dd if=/dev/zero of=$meta bs=4096 count=1 conv=notrunc 2>/tmp/log
"$dmthin" serve --rescue --data-block-size 128 --metadata $meta --data /dev/mapper/disk --volume t1=1:60m \
    --socket /tmp/s 2>/tmp/log &
server=$!
await grep -q '^serving' /tmp/log || fail "the server does not come up: $(cat /tmp/log)"
grep -q '^next: nbd-client -unix /tmp/s -N t1 /dev/nbd0 -readonly$' /tmp/log || fail "$(cat /tmp/log)"
must nbd-client -unix /tmp/s -N t1 /dev/nbd0 -readonly >/tmp/nbd 2>&1
must mount -o ro,noload /dev/nbd0 /mnt
expect 'files of the export' "$(cat /tmp/sums)" "$(sums /mnt)"
must umount /mnt
must nbd-client -d /dev/nbd0 >/tmp/nbd 2>&1
kill $server
status=0
wait $server || status=$?
expect "status of the server ($(tail -n 1 /tmp/log))" 0 $status
say "files by the kernel's NBD client, without a superblock"
