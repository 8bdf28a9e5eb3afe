#!/bin/sh
# The kernel's own NBD client on volumes that dmthin serves: ext4 and xfs are made, filled and checked.
# Then the server gives the pool back, and the kernel's thin-pool target shows the same files.
#
# usage: contrib/kernel/run scenarios/served-file-systems.sh META DATA
#
#   META, DATA  images of zeros, 16 MiB and 1 GiB
#
# DMTHIN_TOOLS names the directory of dmthin. Needs nbd-client, e2fsprogs and xfsprogs. While dmthin
# serves, no device-mapper device exists; while the kernel has the pool, dmthin is refused.
. "$DMTHIN_RIG/lib.sh"

dmthin=${DMTHIN_TOOLS:?names the directory of dmthin}/dmthin
meta=/dev/ubda data=/dev/ubdb
sectors=819200

serve() { # VOLUME...
    local volume arguments=''
    for volume; do arguments="$arguments --volume $volume"; done
    # shellcheck disable=SC2086  # words
    "$dmthin" serve --metadata $meta --data $data --socket /tmp/s $arguments 2>/tmp/log &
    server=$!
    await grep -q '^serving' /tmp/log || fail "the server does not come up: $(cat /tmp/log)"
}
served() { # how it ends
    local status=0
    kill "$server"
    wait "$server" || status=$?
    expect "status of the server ($(tail -n 1 /tmp/log))" 0 $status
    must "$dmthin" check -q $meta
}
attach() { must nbd-client -unix /tmp/s -N "$1" "$2" -b 512 >/tmp/nbd 2>&1; }
detach() { must nbd-client -d "$1" >/tmp/nbd 2>&1; }
check() { # KIND DEVICE
    case $1 in
        ext4) e2fsck -fn "$2" >/tmp/fsck 2>&1 ;;
        xfs) xfs_repair -n "$2" >/tmp/fsck 2>&1 ;;
    esac || { cat /tmp/fsck; fail "$1 on $2 is not consistent"; }
}
fill() { # FOLDER FIRST LAST
    local i
    for i in $(seq "$2" "$3"); do
        head -c $((i * 4999)) /tmp/random >"$1/$i" || fail "cannot write $1/$i"
    done
}
sums() { (cd "$1" && find . -type f -exec sha256sum {} + | sort); }

must "$dmthin" pool format --data-block-size 128 --nr-data-blocks $(($(blockdev --getsz $data) / 128)) $meta
must "$dmthin" pool create-thin $meta 1
must "$dmthin" pool create-thin $meta 2
head -c 4M /dev/urandom >/tmp/random
mkdir /tmp/ext4 /tmp/xfs

serve ext4=1:${sectors}s xfs=2:${sectors}s
dmsetup create refused --table "0 $sectors thin-pool $meta $data 128 0" 2>/dev/null &&
    fail "the kernel has opened a pool that is served"
for kind in ext4 xfs; do
    attach $kind /dev/nbd0
    case $kind in
        ext4) must mkfs.ext4 -q /dev/nbd0 ;;
        xfs) must mkfs.xfs -q /dev/nbd0 ;;
    esac
    must mount /dev/nbd0 /tmp/$kind
    fill /tmp/$kind 1 120
    must sync
    sums /tmp/$kind >/tmp/sums-$kind
    # A snapshot of the disk as it is now, journal included.
    case $kind in ext4) id=1 ;; xfs) id=2 ;; esac
    must "$dmthin" pool snapshot --control /tmp/s.control pool 1$id $id
    must rm /tmp/$kind/1*
    fill /tmp/$kind 121 140
    must fstrim /tmp/$kind
    sums /tmp/$kind >/tmp/later-$kind
    must umount /tmp/$kind
    check $kind /dev/nbd0
    detach /dev/nbd0
    say "$kind by nbd-client: made, filled, snapshotted, trimmed, checked"
done
served

# The kernel's turn: volumes as they were left, snapshots as they were taken.
pool_create pool $meta $data 128 0
"$dmthin" serve --metadata $meta --data $data --socket /tmp/s 2>/tmp/log &&
    fail "a pool of the kernel is served"
for kind in ext4 xfs; do
    case $kind in ext4) id=1 options='' ;; xfs) id=2 options='-o nouuid' ;; esac
    thin_activate vol pool $id $sectors
    thin_activate snap pool 1$id $sectors
    # shellcheck disable=SC2086
    must mount $options /dev/mapper/vol /tmp/$kind
    sums /tmp/$kind | cmp - /tmp/later-$kind || fail "$kind holds other files under the kernel"
    fill /tmp/$kind 141 150
    sums /tmp/$kind >/tmp/kernel-$kind
    must umount /tmp/$kind
    # shellcheck disable=SC2086
    must mount $options /dev/mapper/snap /tmp/$kind
    sums /tmp/$kind | cmp - /tmp/sums-$kind || fail "the snapshot of $kind holds other files"
    must umount /tmp/$kind
    check $kind /dev/mapper/vol
    check $kind /dev/mapper/snap
    thin_deactivate vol snap
    say "$kind under the kernel: the same files"
done
pool_remove pool
must "$dmthin" check -q $meta

# And back.
serve ext4=1:${sectors}s xfs=2:${sectors}s
for kind in ext4 xfs; do
    attach $kind /dev/nbd0
    must mount /dev/nbd0 /tmp/$kind
    sums /tmp/$kind | cmp - /tmp/kernel-$kind || fail "$kind holds other files when served again"
    must umount /tmp/$kind
    check $kind /dev/nbd0
    detach /dev/nbd0
done
served
say "served again: what the kernel has written"
