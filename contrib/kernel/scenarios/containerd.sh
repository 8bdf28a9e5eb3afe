#!/bin/sh
# Compares dmthin with dmsetup for the calls that containerd's devmapper snapshotter makes.
#
# usage: contrib/kernel/run scenarios/containerd.sh META DATA
#
#   META, DATA  images of zeros, 16 MiB and 128 MiB
#
# DMTHIN_TOOLS names the directory of dmthin. The life of a snapshotter runs twice, with the
# system's dmsetup and with dmthin under that name: a pool, images with file systems, their commits,
# containers on snapshots of them, the rollback after a failed step, removal by every combination of
# options, a restart, and the end. For each call, the joined outputs, as the snapshotter reads them,
# and the exit statuses have to be equal. Errors have to be those that the snapshotter looks for.
# The calls of its own tests are included.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of dmthin}
real=$(command -v dmsetup)
work=/tmp/containerd
mkdir -p $work/theirs $work/ours $work/mnt
ln -sf "$real" $work/theirs/dmsetup
ln -sf "$tools/dmthin" $work/ours/dmsetup

# --- what the snapshotter's functions call

call() { # ARGUMENT...: sets status
    status=0
    dmsetup "$@" >$work/out 2>&1 || status=$?
    { echo "\$ dmsetup $*"; cat $work/out; echo "[$status]"; } >>"$protocol"
}
did() { call "$@"; [ $status = 0 ] || fail "dmsetup $*: $(cat $work/out)"; }
# The snapshotter takes the end of the first line, in lower case, as the error; the texts are
# libc's. It treats "not found" like ENXIO.
denied() { # WORDS ARGUMENT...
    local words=$1; shift
    call "$@"
    [ $status != 0 ] || fail "dmsetup $* succeeded"
    expect "error of dmsetup $*" "$words" "$(error_words)"
}
error_words() {
    head -n 1 $work/out | sed -n -e 's/.* not found$/No such device or address/p' -e 's/.*failed: //p' |
        tr '[:upper:]' '[:lower:]'
}
pool_line() { printf '0 %s thin-pool /dev/ubda /dev/ubdb %s 32768 1 skip_block_zeroing' "$(blockdev --getsz /dev/ubdb)" "$1"; }
info() {
    call info --columns --noheadings -o name,blkdevname,attr,major,minor,open,segments,events --separator ' ' "$1"
}
is_loaded() { info "$1"; [ $status = 0 ]; }
activate() { did create "p-snap-$1" --table "0 $image_sectors thin /dev/mapper/p $1"; }
usage() { did status "p-snap-$1"; }
deactivate() { # ID OPTION...
    local id=$1; shift
    is_loaded "p-snap-$id" || return 0
    did remove --retry "$@" "/dev/mapper/p-snap-$id"
}
mounted() { # ID OPTION WORDS...: runs words with a file system mounted
    local id=$1 option=$2; shift 2
    must mount -t ext4 -o "$option" "/dev/mapper/p-snap-$id" $work/mnt
    "$@"
    must umount $work/mnt
}
prepare_new() { # ID: an image without a parent
    did message p 0 "create_thin $1"
    activate "$1"
    must mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "/dev/mapper/p-snap-$1"
    mounted "$1" rw rmdir $work/mnt/lost+found
}
prepare() { # ID PARENT: a container, or the next layer
    local active=
    if is_loaded "p-snap-$2"; then active=yes; did suspend "p-snap-$2"; fi
    did message p 0 "create_snap $1 $2"
    activate "$1"
    [ -z "$active" ] || did resume "p-snap-$2"
}
commit() { # ID
    usage "$1"
    did suspend "p-snap-$1"
    did resume "p-snap-$1"
    deactivate "$1" --deferred
}
remove() { # ID
    deactivate "$1" --force
    did message p 0 "delete $1"
}

# --- a snapshotter's life

fill() { echo "of $1" >"$work/mnt/file-$1"; dd if=/dev/zero of="$work/mnt/zeros-$1" bs=64k count=16 status=none; }
holds() { local id; for id; do expect "file of $id" "of $id" "$(cat "$work/mnt/file-$id")"; done; }
lacks() { local id; for id; do [ ! -e "$work/mnt/file-$id" ] || fail "there is a file of $id"; done; }

life() {
    image_sectors=131072
    did version
    did create p --table "$(pool_line 128)"
    info /dev/mapper/p
    did table p
    info ''
    call table nope
    info nope
    [ $status != 0 ] || fail "info of nothing succeeded"
    # Three layers of an image, each a snapshot of the one below, committed in turn.
    prepare_new 1
    mounted 1 rw fill 1
    commit 1
    prepare 2 1
    mounted 2 rw holds 1
    mounted 2 rw fill 2
    commit 2
    prepare 3 2
    mounted 3 rw fill 3
    commit 3
    # Containers and a view on them; one more of a container that runs.
    prepare 4 3
    prepare 5 3
    prepare 6 2
    mounted 4 rw fill 4
    mounted 5 ro holds 1 2 3
    mounted 5 ro lacks 4
    mounted 6 ro lacks 3 4
    prepare 7 4
    mounted 7 ro holds 1 2 3 4
    info ''
    for id in 4 5 6 7; do info p-snap-$id; did table p-snap-$id; done
    did status p
    # Repeated calls, calls that fail halfway and are rolled back, and missing devices.
    denied 'file exists' message p 0 'create_thin 4'
    denied 'no data available' message p 0 'create_snap 8 99'
    denied 'file exists' message p 0 'create_snap 4 3'
    denied 'device or resource busy' message p 0 'delete 4'
    denied 'no data available' message p 0 'delete 99'
    denied 'invalid argument' message p 0 'create_thin 99999999'
    denied 'no such device or address' message nope 0 'create_thin 9'
    denied 'device or resource busy' create p-snap-4 --table "0 $image_sectors thin /dev/mapper/p 4"
    denied 'no data available' create p-snap-8 --table "0 $image_sectors thin /dev/mapper/p 8"
    denied 'no such device or address' suspend p-snap-8
    denied 'no such device or address' resume p-snap-8
    did message p 0 'create_thin 8'
    denied 'no such device' create p-snap-8 --table "0 $image_sectors thin /dev/mapper/nope 8"
    did message p 0 'delete 8'
    info p-snap-8
    call status p-snap-8
    did suspend p-snap-5
    did suspend p-snap-5
    info p-snap-5
    did resume p-snap-5
    did resume p-snap-5
    # Removal: of a device in use, of a missing one, of the pool below; with blocks freed first.
    denied 'device or resource busy' remove /dev/mapper/p
    denied 'no such device or address' remove --retry /dev/mapper/p-snap-99
    denied 'no such device or address' remove --retry --deferred --force /dev/mapper/p-snap-99
    must blkdiscard -f /dev/mapper/p-snap-6
    usage 6
    remove 6
    denied 'no data available' message p 0 'delete 6'
    exec 9</dev/mapper/p-snap-5
    info p-snap-5
    denied 'device or resource busy' remove --retry /dev/mapper/p-snap-5
    did remove --retry --deferred /dev/mapper/p-snap-5
    info p-snap-5
    exec 9<&-
    info p-snap-5
    did message p 0 'delete 5'
    # A restart: active devices are activated again; the pool's table is loaded once more.
    deactivate 4
    deactivate 4
    is_loaded p-snap-4 || activate 4
    mounted 4 ro holds 1 2 3 4
    did reload p --table "$(pool_line 128)"
    did suspend p
    info p
    did resume p
    did table p
    call reload p --table "$(pool_line 100)"
    call reload nope --table "$(pool_line 128)"
    # The end.
    remove 7
    remove 4
    for id in 3 2 1; do remove $id; done
    did status p
    activate_last
    did remove --force --retry --deferred /dev/mapper/p
    info ''
    call version --noflush
}
# The pool is removed with one of its devices left open, which the snapshotter leaves to the kernel.
activate_last() {
    did message p 0 'create_thin 10'
    activate 10
    exec 9</dev/mapper/p-snap-10
    did remove --retry --deferred --force /dev/mapper/p-snap-10
    info ''
    exec 9<&-
    info ''
}

for side in theirs ours; do
    protocol=$work/$side/protocol
    must dd if=/dev/zero of=/dev/ubda bs=4096 count=1 conv=fsync,notrunc status=none
    # In a subshell, because of the path.
    ( export PATH="$work/$side:$PATH"; : >"$protocol"; life ) || fail "the life with $side ended early"
    expect "devices left" "No devices found" "$("$real" ls)"
    must "$tools/dmthin" check /dev/ubda >/dev/null
done
count=$(grep -c '^\$ ' $work/theirs/protocol)
# How much a file system has mapped depends on when it wrote its journal.
for side in theirs ours; do
    sed -i -E -e 's/^(0 [0-9]+ thin) [0-9]+ [0-9]+$/\1 MAPPED HIGHEST/' \
        -e 's/^(0 [0-9]+ thin-pool [0-9]+) [0-9]+\/([0-9]+) [0-9]+\//\1 USED\/\2 USED\//' $work/$side/protocol
done
diff -U 3 $work/theirs/protocol $work/ours/protocol || fail "dmthin is not dmsetup to containerd"
say "$count calls, no difference"
