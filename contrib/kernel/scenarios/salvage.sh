#!/bin/sh
# The kernel writes to salvaged pools: only operations on a device may change it.
#
# usage: contrib/kernel/run scenarios/salvage.sh META DATA -- DIR
#
# DIR holds, for each seed, N.restored (metadata as large as META, dumped with --repair and restored) and
# N.xml (the dump). See contrib/kernel/salvage. Writes N.status: "ok DEVICES", or the failure.
. "$DMTHIN_RIG/lib.sh"

dir=$1
tools=${DMTHIN_TOOLS:?names the directory of the tools}
blocks=64

# Each data block is its own from the start, so that no device can read another's by chance.
must "$rig" pattern 0 65536 0 $(($(blockdev --getsz /dev/ubdb) / 128)) |
    must dd of=/dev/ubdb bs=1M iflag=fullblock status=none

trial() { # N
    local n=$1 ids status=0
    must dd if="$dir/$n.restored" of=/dev/ubda bs=1M conv=fsync status=none
    ids=$(sed -n 's/.*<device dev_id="\([0-9]*\)".*/\1/p' "$dir/$n.xml")
    pool_create pool /dev/ubda /dev/ubdb 128 0
    if [ -n "$ids" ]; then
        # shellcheck disable=SC2086  # words
        thin_activate_all thins pool $((blocks * 128)) $ids
        echo "$ids" | must "$rig" salvaged-play /dev/mapper/thins pool $blocks "$n" /tmp/model
        thin_deactivate thins
        ids=$(cut -d' ' -f1 /tmp/model)
        # shellcheck disable=SC2086
        thin_activate_all thins pool $((blocks * 128)) $ids
        echo "$ids" | "$rig" salvaged-verify /dev/mapper/thins $blocks /tmp/model >/tmp/wrong || status=$?
        thin_deactivate thins
    fi
    pool_remove pool
    if [ $status -ne 0 ]; then
        head -n 3 /tmp/wrong >"$dir/$n.status"
    elif ! "$tools/thin_check" /dev/ubda >/tmp/log 2>&1; then
        { echo "thin_check afterwards:"; cat /tmp/log; } >"$dir/$n.status"
    else
        echo "ok $(echo "$ids" | wc -w)" >"$dir/$n.status"
    fi
}

for xml in "$dir"/*.xml; do
    [ -e "$xml" ] || break
    n=${xml##*/}
    trial "${n%.xml}"
done
