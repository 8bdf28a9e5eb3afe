# lib.sh: shell functions for pools and thin devices in the rig. POSIX sh with local; to be sourced:
#
#     . "$DMTHIN_RIG/lib.sh"
#
# A script that sources it stops at the first thing that fails, with a line that says what. Blocks are
# data blocks of the pool; pool_create remembers the block size. What is written into block B of
# device D is a pattern made of D and B (`rig pattern`), so every block can be verified without a copy.
#
#     pool_create POOL META DATA BLOCKSECTORS LOWWATER [FEATURE...]
#     pool_reload POOL META DATA BLOCKSECTORS LOWWATER [FEATURE...]     new table, suspend, resume
#     pool_message POOL WORD...        pool_messages POOL <lines        pool_remove POOL
#     pool_status POOL                 pool_field POOL N                (fields of the status, 1...)
#     thin_create POOL ID              thin_delete POOL ID
#     thin_activate NAME POOL ID SECTORS                                thin_deactivate NAME...
#     thin_activate_all NAME POOL SECTORS ID...    one device that joins all the thin devices
#     thin_snapshot POOL NEWID ORIGINID [ORIGINNAME]     ORIGINNAME: the origin, if it is active
#     thin_write NAME ID FIRST COUNT   whole blocks, direct I/O
#     thin_touch NAME [BYTES] <lines   "ID FIRST COUNT STEP [BASE]": first BYTES (4096) of scattered blocks
#     thin_verify NAME ID FIRST COUNT  reads whole blocks back
#     thin_verify_zero NAME FIRST COUNT
#     thin_discard NAME FIRST COUNT    thin_discards NAME <lines "FIRST COUNT"
#     thin_mapped NAME                 (number of mapped blocks)
#     lvm_configure DISKS [LINE...]    lvm2 for disks whose names begin with DISKS; LINEs go to its section "global"
#     await COMMAND...                 see contrib/await.sh
#     quietly COMMAND...               shows its output only if it fails
set -eu

# shellcheck disable=SC2034  # for scripts that source this
rig_dir=${DMTHIN_RIG:?is set in the rig only: start this script with contrib/kernel/run}
# Does in one process what a process each would make slow; contrib/kernel/programs builds it.
rig=$DMTHIN_PROGRAMS/rig
. "$rig_dir/../await.sh"
block_sectors=128

# The kernel explains a refused table or message only in its log.
fail() {
    echo "${0##*/}: FAILED: $*" >&2
    dmesg 2>/dev/null | grep device-mapper | tail -n 5 >&2 || :
    exit 1
}
must() { "$@" || fail "$* (status $?)"; }
expect() { [ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"; }
quietly() { "$@" >/tmp/log 2>&1 || fail "$* (status $?): $(cat /tmp/log)"; }
say() { echo "${0##*/}: $*"; }

pool_table() { # META DATA BLOCKSECTORS LOWWATER [FEATURE...]
    local sectors
    sectors=$(blockdev --getsz "$2") || fail "no device $2"
    printf '0 %s thin-pool %s %s %s %s' "$sectors" "$1" "$2" "$3" "$4"
    shift 4
    [ $# -eq 0 ] || printf ' %s' $# "$@"
}

pool_create() {
    local pool=$1 table; shift
    block_sectors=$3
    table=$(pool_table "$@")
    must dmsetup create "$pool" --table "$table"
}

pool_reload() {
    local pool=$1 table; shift
    table=$(pool_table "$@")
    must dmsetup reload "$pool" --table "$table"
    must dmsetup suspend "$pool"
    must dmsetup resume "$pool"
}

pool_message() { local pool=$1; shift; must dmsetup message "$pool" 0 "$*"; }
pool_messages() { must "$rig" messages "$1"; }
pool_remove() { must dmsetup remove "$1"; }
pool_status() { must dmsetup status "$1"; }
pool_field() { # counted from the transaction id
    local line
    line=$(dmsetup status "$1") || fail "status of $1"
    printf '%s\n' "$line" | cut -d' ' -f$(($2 + 3))
}

thin_create() { pool_message "$1" create_thin "$2"; }
thin_delete() { pool_message "$1" delete "$2"; }
thin_activate() { must dmsetup create "$1" --table "0 $4 thin /dev/mapper/$2 $3"; }
thin_deactivate() { must dmsetup remove "$@"; }

# One table with many thin targets: a dmsetup call each would take minutes for a thousand devices.
thin_activate_all() {
    local name=$1 pool=$2 each=$3 start=0 id; shift 3
    for id; do
        echo "$start $each thin /dev/mapper/$pool $id"
        start=$((start + each))
    done | must dmsetup create "$name"
}

# The kernel does not stop the origin's writes itself: they could land in blocks that are shared now.
thin_snapshot() {
    [ -z "${4-}" ] || must dmsetup suspend "$4"
    pool_message "$1" create_snap "$2" "$3"
    [ -z "${4-}" ] || must dmsetup resume "$4"
}

# Each call is one dd, of whole blocks, past the cache: a block is provisioned by one write when the
# block size is not larger than a request can be.
thin_write() {
    local size=$((block_sectors * 512))
    "$rig" pattern "$2" $size "$3" "$4" |
        must dd of="/dev/mapper/$1" bs=$size seek="$3" iflag=fullblock oflag=direct conv=notrunc status=none
}

thin_touch() { must "$rig" write "/dev/mapper/$1" $((block_sectors * 512)) "${2:-4096}"; }

thin_read() { # NAME FIRST COUNT
    must dd if="/dev/mapper/$1" bs=$((block_sectors * 512)) skip="$2" count="$3" iflag=direct status=none
}
thin_verify() {
    "$rig" pattern "$2" $((block_sectors * 512)) "$3" "$4" >/tmp/expected
    thin_read "$1" "$3" "$4" | cmp -s - /tmp/expected || fail "blocks $3+$4 of $1 are not those of device $2"
    rm /tmp/expected
}
thin_verify_zero() {
    thin_read "$1" "$2" "$3" | cmp -s -n $((block_sectors * 512 * $3)) - /dev/zero || fail "blocks $2+$3 of $1 are not zero"
}

thin_discard() {
    must blkdiscard -o $((block_sectors * 512 * $2)) -l $((block_sectors * 512 * $3)) "/dev/mapper/$1"
}
thin_discards() { must "$rig" discard "/dev/mapper/$1" $((block_sectors * 512)); }
thin_mapped() {
    local line
    line=$(dmsetup status "$1") || fail "status of $1"
    echo $(($(printf '%s\n' "$line" | cut -d' ' -f4) / block_sectors))
}

# No udev, no daemons, and nothing of the host's: only the rig's disks (lvm has to be told that kind),
# and no files outside /tmp.
lvm_configure() {
    export LVM_SYSTEM_DIR=/tmp/lvm LVM_SUPPRESS_FD_WARNINGS=1
    local disks=$1; shift
    mkdir -p $LVM_SYSTEM_DIR
    {
        cat <<C
devices {
    global_filter = [ "a|^/dev/$disks|", "r|.*|" ]
    use_devicesfile = 0
    obtain_device_list_from_udev = 0
    external_device_info_source = "none"
    types = [ "ubd", 16 ]
}
activation {
    udev_sync = 0
    udev_rules = 0
    monitoring = 0
}
backup {
    backup = 0
    archive = 0
}
global {
    use_lvmpolld = 0
    notify_dbus = 0
    event_activation = 0
C
        printf '    %s\n' "$@" '}'
    } >$LVM_SYSTEM_DIR/lvm.conf
}
