#!/bin/sh
# The kernel and our engine take turns on one pool.
#
# usage: contrib/kernel/run scenarios/ping-pong.sh META -- DIR
#
#   META  the metadata device, zeros at first
#   DIR   has the operations of each turn, DIR/NNNN.ops; DMTHIN_TRACES names it as well, so that the rig
#         can see it. Odd turns are the kernel's.
#
# After every turn thin_check of DMTHIN_TOOLS and of DMTHIN_PEER have to find nothing. All that was done
# is left in DIR/all.done, ready to be repeated. DMTHIN_PROGRAMS names the folder of trials.
. "$DMTHIN_RIG/lib.sh"

dir=$1
tools=${DMTHIN_TOOLS:?names the directory of the tools}
peer=${DMTHIN_PEER:?names the directory of the tools of the peer}
programs=${DMTHIN_PROGRAMS:?names the folder of trials}

turn=0
for trace in "$dir"/[0-9]*.ops; do
    turn=$((turn + 1))
    if [ $((turn % 2)) -eq 1 ]; then
        "$rig" turn /dev/ubda "$trace" >/tmp/done || fail "turn $turn, the kernel's"
    else
        "$programs/trials" replay --onto /dev/ubda "$trace" || fail "turn $turn, ours"
        cat "$trace" >/tmp/done
    fi
    { echo "# turn $turn"; [ $turn -gt 1 ] || grep '^meta' "$trace"; grep -v '^meta' /tmp/done; } >>"$dir/all.done"
    for check in "$tools/thin_check" "$peer/thin_check"; do
        "$check" /dev/ubda >/tmp/log 2>&1 || fail "after turn $turn: $check: $(cat /tmp/log)"
        ! grep -iE 'leak|error|bad|expected' /tmp/log || fail "after turn $turn: $check: $(cat /tmp/log)"
    done
done
say "$turn turns, clean after each"
