#!/bin/sh
# Metadata that was dumped and restored works for the same pool as well as the original.
#
# usage: contrib/kernel/run scenarios/restore-activates.sh META DATA NEW
#
#   META, DATA  a pool's devices, as make-pools --keep-data leaves them (use copies: they are written to)
#   NEW         an image of zeros, as large as META, to restore into
#
# DMTHIN_TOOLS names the directory of the thin_dump, thin_restore and thin_check under test; DMTHIN_PEER,
# if set, that of another thin_check, which has to agree. Of original and restored, the kernel's status
# of the pool and of every thin device (mapped sectors, highest) is compared, and what the devices read
# as: up to 64 MiB, at most DMTHIN_DIGEST_BLOCKS (8000) blocks, spread evenly over all mapped ones.
# Finally new blocks are written on the restored pool, which must not touch any old block.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of the tools}
most=${DMTHIN_DIGEST_BLOCKS:-8000}

quiet() { "$@" >/tmp/log 2>&1 || fail "$* (status $?): $(cat /tmp/log)"; }

quiet "$tools/thin_dump" /dev/ubda -o /tmp/a.xml
quiet "$tools/thin_restore" -i /tmp/a.xml -o /dev/ubdc
# A dump keeps the needs-check flag, and so does the restored metadata; the kernel requires that a
# check clears it.
quiet "$tools/thin_check" --clear-needs-check-flag /dev/ubdc
[ -z "${DMTHIN_PEER-}" ] || quiet "$DMTHIN_PEER/thin_check" /dev/ubdc

block_sectors=$(sed -n 's/.*data_block_size="\([0-9]*\)".*/\1/p;/<superblock/q' /tmp/a.xml)
size=$((block_sectors * 512))
must "$rig" extents </tmp/a.xml >/tmp/extents

# All devices side by side in one table, each as long as its last mapping needs; and which bytes of that
# to read. One table and one reader, because a thousand processes would take minutes.
awk -v bs="$block_sectors" -v table=/tmp/table '
    function flush() {
        if (id == "") return
        printf "%.0f %.0f thin /dev/mapper/pool %s\n", base, end * bs, id > table
        base += end * bs
    }
    BEGIN { id = "" }
    $1 != id { flush(); id = $1; end = 1 }
    { if ($2 + $3 > end) end = $2 + $3; if ($3) printf "%s %.0f %.0f\n", id, base * 512 + $2 * bs * 512, $3 }
    END { flush() }' /tmp/extents >/tmp/runs
blocks=$(awk '{ n += $3 } END { printf "%.0f", n + 0 }' /tmp/runs)
stride=$(((blocks + most - 1) / most))
bytes=$((blocks == 0 ? 4096 : 67108864 / (blocks > most ? most : blocks) / 4096 * 4096))
[ $bytes -le $size ] || bytes=$size
awk -v size="$size" -v stride="$stride" '
    stride <= 1 { printf "%s %s %.0f\n", $1, $2, $3 * size; next }
    { for (; next_block < n + $3; next_block += stride) printf "%s %.0f %d\n", $1, $2 + (next_block - n) * size, size; n += $3 }
    ' /tmp/runs >/tmp/ranges

digests() { must "$rig" digest /dev/mapper/thins $bytes $size </tmp/ranges; }
activate() { # META LABEL
    pool_create pool "$1" /dev/ubdb "$block_sectors" 0 skip_block_zeroing
    pool_status pool >"/tmp/pool.$2"
    : >"/tmp/thins.$2" >"/tmp/digests.$2"
    [ -s /tmp/table ] || return 0
    must dmsetup create --readonly thins </tmp/table
    # Reading ahead of a scattered read would read everything.
    must blockdev --setra 0 /dev/mapper/thins
    must dmsetup status thins >"/tmp/thins.$2"
    digests >"/tmp/digests.$2"
}
deactivate() {
    [ ! -s /tmp/table ] || thin_deactivate thins
    pool_remove pool
}
same() { diff /tmp/"$1".original /tmp/"$1".restored >&2 || fail "$1: original (<) and restored (>) differ"; }
field() { cut -d' ' -f$(($2 + 3)) "/tmp/pool.$1"; }

activate /dev/ubda original
deactivate
activate /dev/ubdc restored

same thins
same digests
expect "transaction id" "$(field original 1)" "$(field restored 1)"
expect "mode and check of the restored pool" "rw -" "$(field restored 5) $(field restored 8)"
expect "held root of the restored pool" - "$(field restored 4)"
# Blocks used only by the metadata snapshot are not in a dump.
if [ "$(field original 4)" = - ]; then
    expect "used data" "$(field original 3)" "$(field restored 3)"
fi

used=$(field restored 3)
free=$((${used#*/} - ${used%/*}))
if [ $free -gt 0 ]; then
    id=16777215
    while grep -q "^$id " /tmp/extents; do id=$((id - 1)); done
    thin_create pool $id
    thin_activate new pool $id $((block_sectors * 64))
    echo "$id 0 $((free < 64 ? free : 64)) 1" | thin_touch new
    thin_deactivate new
    if [ -s /tmp/table ]; then
        digests >/tmp/digests.restored
        same digests
    fi
fi
deactivate
quiet "$tools/thin_check" /dev/ubdc
say "$(wc -l <"/tmp/thins.original") devices, $(wc -l <"/tmp/ranges") ranges" \
    "of $blocks blocks ($bytes bytes each, 1 in ${stride}): equal"
