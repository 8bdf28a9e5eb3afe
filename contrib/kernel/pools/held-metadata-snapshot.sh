#!/bin/sh
# A metadata snapshot (reserve_metadata_snap) that is still held at the end, with changes after it was
# taken: new mappings, discards, a snapshot, a deleted and a new device. What it shows is older than the
# live metadata and shares most blocks with it.
#
# If DMTHIN_TOOLS and/or DMTHIN_PEER name directories of tools: thin_check, thin_dump and thin_ls of
# each are run with -m on the live metadata; output in DMTHIN_OUT (NAME.tools, NAME.peer), if that is set.
# metadata-bytes: 8388608
# data-bytes: 134217728
. "$DMTHIN_RIG/lib.sh"

live() { # LABEL DIRECTORY WHEN
    [ -n "$2" ] || return 0
    out=${DMTHIN_OUT:-/tmp}
    mkdir -p "$out"
    for tool in check dump ls; do
        must "$2/thin_$tool" -m /dev/ubda >"$out/$tool-$3.$1" 2>"$out/$tool-$3.$1.err" || fail "$(cat "$out/$tool-$3.$1.err")"
        say "$1 thin_$tool -m ($3): $(wc -l <"$out/$tool-$3.$1") lines"
    done
}
live_both() {
    live tools "${DMTHIN_TOOLS-}" "$1"
    live peer "${DMTHIN_PEER-}" "$1"
}

pool_create pool /dev/ubda /dev/ubdb 128 0
for id in 0 1 2; do thin_create pool $id; done
thin_activate a pool 0 65536
thin_activate b pool 1 65536
thin_write a 0 0 300
thin_write b 1 100 80
pool_message pool set_transaction_id 0 7
pool_message pool reserve_metadata_snap
held=$(pool_field pool 4)
[ "$held" != - ] || fail "no metadata snapshot in the status"
live_both before

thin_write a 0 300 40
thin_discard a 10 50
thin_discard b 100 80
thin_snapshot pool 3 0 a
thin_write a 0 200 5
thin_delete pool 2
thin_create pool 4
pool_message pool set_transaction_id 7 8
expect "held root" "$held" "$(pool_field pool 4)"
live_both after
if [ -n "${DMTHIN_OUT-}" ]; then
    for label in tools peer; do
        [ ! -f "$DMTHIN_OUT/dump-before.$label" ] ||
            must cmp "$DMTHIN_OUT/dump-before.$label" "$DMTHIN_OUT/dump-after.$label"
    done
fi
thin_verify a 0 60 240
thin_deactivate a b
pool_remove pool
