#!/bin/sh
# dmthin pool manages an active pool: every verb, its refusals, and the state after a killed one.
#
# usage: contrib/kernel/run scenarios/pool-verbs.sh META DATA BASE
#
#   META, DATA, BASE  images of zeros, 8 MiB, 128 MiB and 8 MiB
#
# DMTHIN_TOOLS names the directory of dmthin. dmsetup shows the effects of each verb. There is no
# udev. A thousand thin devices are made and deleted, and a process is killed between suspending the
# origins and resuming them.
. "$DMTHIN_RIG/verbs.sh"

meta=/dev/ubda data=/dev/ubdb base=/dev/ubdc

ids() { "$dmthin" ls --no-headers -m -o DEV $meta | tr -d ' ' | tr '\n' ' '; }

# --- making a pool: a refusal leaves the devices unchanged
refused 66 'a file: the kernel requires a block device' create p --metadata /etc/hostname --data $data --backend kernel
refused 64 'is a file, which the kernel does not accept' create p --metadata /etc/hostname --data $data --no-fallback
refused 66 'cannot open' create p --metadata /dev/nothing --data $data
refused 64 'same device' create p --metadata $meta --data $meta
refused 64 'multiples of 128' create p --metadata $meta --data $data --block-size 65k
refused 2 'size is a whole number with a unit' create p --metadata $meta --data $data --block-size 128
echo something | dd of=$meta conv=notrunc,fsync status=none
refused 64 'is not empty' create p --metadata $meta --data $data
pool create p --metadata $meta --data $data --force --features error_if_no_space --low-water 7
grep -q 'the smallest, which copy and zero least' /tmp/err || fail "no reason: $(cat /tmp/err)"
expect table '0 262144 thin-pool 98:0 98:16 128 7 1 error_if_no_space ' "$(dmsetup table p)"
refused 75 "'p' is already active" create p --metadata $meta --data $data
refused 75 'in use' create q --metadata $meta --data $base
dmsetup info q >/dev/null 2>&1 && fail "q is there"
# A pool that the kernel refuses after it has formatted the metadata: that is zeroed again.
dmsetup create huge --table "0 2147483648 zero"
dmsetup create tiny --table "0 128 linear $base 0"
refused 64 'cannot activate' create q --metadata /dev/mapper/tiny --data /dev/mapper/huge --block-size 64k
cmp -s -n 4096 $base /dev/zero || fail "$base is not zero again"
cmp -s -n 65536 $base /dev/zero && fail "the kernel has not formatted anything"
dmsetup remove huge tiny
say "create"

# --- thin devices
pool create-thin p 1 --activate t1 --size 16m
thin_write t1 1 0 32
pool create-thin p 2
refused 64 'failed: File exists' create-thin p 1
refused 64 'already exists' create-thin p 1 --activate t9 --size 1m
refused 75 "'t1' is already active" create-thin p 9 --activate t1 --size 1m
refused 2 'go together' create-thin p 9 --activate t9
refused 2 'a size must be at least a sector' create-thin p 9 --activate t9 --size 0s
refused 66 'no active device' create-thin nopool 1
refused 64 't1 is not a thin pool' create-thin t1 1 --backend kernel
pool reserve-metadata-snap p >/dev/null
expect "a device whose activation failed was deleted again" '1 2 ' "$(ids)"
pool release-metadata-snap p
pool activate-thin p t2 2 8m --read-only
expect 'state of t2' r "$(blockdev --getro /dev/mapper/t2 | tr 01 wr)"
refused 64 'there is no thin device\|no thin device has that id' activate-thin p t7 7 8m
pool deactivate t2
refused 66 "no active device is called 't2'" deactivate t2
refused 75 'active as t1' delete p 1
refused 64 'thin device does not exist' delete p 77
pool delete p 2
say "create-thin, activate-thin, deactivate, delete"

# --- snapshots, single ones and several at the same moment
pool snapshot p 11 1 --activate s1 --size 16m
thin_verify s1 1 0 32
thin_write t1 7 0 8
thin_verify s1 1 0 32
pool create-thin p 3 --activate t3 --size 16m
thin_write t3 3 0 4
pool snapshot p --volume 1:21 --volume 3:23
refused 64 'thin device 99 does not exist' snapshot p --volume 1:31 --volume 99:32 --volume 3:33
refused 64 'already exists' snapshot p --volume 1:31 --volume 3:23
refused 64 'cannot have the same id' snapshot p --volume 1:31 --volume 3:31
refused 2 'give either' snapshot p 5
pool reserve-metadata-snap p >/dev/null
expect "of a refused snapshot nothing stays" '1 3 11 21 23 ' "$(ids)"
pool release-metadata-snap p
# A device that was suspended before stays suspended.
dmsetup suspend t3
pool snapshot p 24 3
expect 't3' Suspended "$(dmsetup info -c --noheadings -o suspended t3)"
dmsetup resume t3
nothing_left_over
say "snapshot"

# --- sizes
pool resize t1 32m
expect 'size of t1' 65536 "$(blockdev --getsz /dev/mapper/t1)"
thin_verify t1 7 0 8
refused 64 'give --shrink' resize t1 16m
pool resize t1 16m --shrink
expect 'size of t1' 32768 "$(blockdev --getsz /dev/mapper/t1)"
refused 64 'is not a thin device' resize p 16m
# An external origin that is shorter, and one that is longer.
"$DMTHIN_PROGRAMS/rig" pattern 5 65536 0 128 | dd of=$base bs=64k iflag=fullblock oflag=direct conv=notrunc status=none
blockdev --setro $base
pool create-thin p 40
pool activate-thin p longer 40 4m --external-origin $base
thin_verify longer 5 0 64
pool create-thin p 41
pool activate-thin p shorter 41 12m --external-origin $base
thin_verify shorter 5 0 128
thin_verify_zero shorter 128 64
thin_write shorter 6 127 2
thin_verify shorter 6 127 2
thin_verify shorter 5 0 127
pool snapshot p 42 41
# An activation of such a snapshot must name the origin, or say that there is none any more.
refused 64 "was last activated over $base" activate-thin p again 42 12m
pool activate-thin p again 42 12m --external-origin $base
thin_verify again 6 127 2
thin_verify again 5 0 127
pool snapshot p 43 41 --activate third --size 12m
thin_verify third 5 0 127
pool deactivate longer; pool deactivate shorter; pool deactivate again; pool deactivate third
refused 64 "was last activated over $base" activate-thin p longer 40 4m
refused 64 "was last activated over $base" snapshot p 44 41 --activate fourth --size 12m
pool activate-thin p longer 40 4m --no-external-origin
thin_verify_zero longer 0 64
pool deactivate longer
pool activate-thin p longer 40 4m; pool deactivate longer
pool delete p 43; pool create-thin p 43
pool activate-thin p fresh 43 4m; pool deactivate fresh
say "resize, external origins"

# --- the transaction id, features, the metadata snapshot and its lease
pool set-transaction-id p 0 5
refused 64 'is 5, not 0' set-transaction-id p 0 6
pool features p --enable skip_block_zeroing --disable error_if_no_space --low-water 9
expect table '0 262144 thin-pool 98:0 98:16 128 9 1 skip_block_zeroing ' "$(dmsetup table p)"
refused 64 'does not change ignore_discard' features p --enable ignore_discard
pool features p --enable read_only
expect mode ro "$(pool_field p 5)"
refused 64 'accepts no changes in its present mode' create-thin p 50
pool features p --disable read_only
expect mode rw "$(pool_field p 5)"
root=$(pool reserve-metadata-snap p --owner backup --holder $$)
expect 'held root' "$root" "$(pool_field p 4)"
refused 75 "'backup' holds the metadata snapshot" reserve-metadata-snap p --owner other
refused 75 'give --owner backup' release-metadata-snap p
pool reserve-metadata-snap p --owner other --take-over >/dev/null
pool release-metadata-snap p --owner other
expect 'held root' - "$(pool_field p 4)"
refused 64 'holds no metadata snapshot' release-metadata-snap p
# A lease whose process has ended is taken over.
sh -c "exec sleep 100" & holder=$!
pool reserve-metadata-snap p --owner gone --holder $holder >/dev/null
kill -9 $holder; wait $holder 2>/dev/null || :
status=0; "$dmthin" pool doctor p >/tmp/out || status=$?
expect "status of doctor" 65 $status
grep -q 'left behind' /tmp/out || fail "doctor: $(cat /tmp/out)"
pool reserve-metadata-snap p --owner next --seconds 0 >/dev/null
grep -q "from 'gone': its process" /tmp/err || fail "no takeover: $(cat /tmp/err)"
pool release-metadata-snap p --owner another
# The clock of day is a year ahead when a lease is taken, and corrected before its time is over.
now=$(date +%s)
must date -s "@$((now + 31536000))" >/dev/null
pool reserve-metadata-snap p --owner early --seconds 1 >/dev/null
must date -s "@$now" >/dev/null
sleep 1.1
pool reserve-metadata-snap p --owner next --seconds 0 >/dev/null
grep -q "from 'early': its limit" /tmp/err || fail "no takeover: $(cat /tmp/err)"
pool release-metadata-snap p --owner another
pool_message p reserve_metadata_snap
refused 75 'its owner is unknown' reserve-metadata-snap p
pool release-metadata-snap p
say "set-transaction-id, features, metadata snapshots"

# --- nodes in the folder from the environment
export DM_DEV_DIR=/tmp/nodes
pool create-thin p 60
pool activate-thin p elsewhere 60 1m
[ -b /tmp/nodes/mapper/elsewhere ] || fail "no node in /tmp/nodes/mapper: $(ls -R /tmp/nodes)"
[ ! -e /dev/mapper/elsewhere ] || fail "a node in /dev/mapper"
must "$dmthin" dm mknodes p
pool status /tmp/nodes/mapper/p >/dev/null
rm /tmp/nodes/mapper/p
pool status --backend kernel /tmp/nodes/mapper/p >/dev/null
pool deactivate /tmp/nodes/mapper/elsewhere
[ ! -e /tmp/nodes/mapper/elsewhere ] || fail "the node is left"
DM_DEV_DIR=nodes refused 64 'DM_DEV_DIR' status p
unset DM_DEV_DIR
pool delete p 60
say "nodes in another folder"

# --- a process that is killed while origins are suspended: a slow device below the pool delays the
# pool's commit, and so keeps the window open.
pool deactivate --all p
dmsetup create slow --table "0 16384 delay $meta 0 0 $meta 0 400 $meta 0 400"
pool activate p --metadata /dev/mapper/slow --data $data
pool activate-thin p t1 1 16m
pool activate-thin p t3 3 16m
for id in 61 62 63; do
    "$dmthin" pool snapshot p --volume 1:${id}1 --volume 3:${id}3 2>/tmp/err & killed=$!
    n=0
    until [ "$(dmsetup info -c --noheadings -o suspended t3 2>/dev/null)" = Suspended ]; do
        n=$((n + 1)); [ $n -lt 500 ] || fail "t3 is not suspended: $(cat /tmp/err)"
    done
    kill -9 $killed; wait $killed 2>/dev/null || :
    expect 't3 after the kill' Suspended "$(dmsetup info -c --noheadings -o suspended t3)"
    # Any verb recovers.
    case $id in
        61) pool status >/dev/null ;;
        62) pool create-thin p 70 ;;
        63) "$dmthin" pool events --timeout 0 2>/tmp/err ;;
    esac
    grep -q 'resumed t3, left by' /tmp/err || fail "$id: $(cat /tmp/err)"
    nothing_left_over
done
# A process that is terminated by a signal resumes the origins itself. Before the first snapshot,
# none is taken.
"$dmthin" pool snapshot p --volume 1:641 --volume 3:643 2>/tmp/err & asked=$!
until [ "$(dmsetup info -c --noheadings -o suspended t1 2>/dev/null)" = Suspended ]; do :; done
kill -TERM $asked; wait $asked 2>/dev/null || :
nothing_left_over
thin_verify t1 7 0 8
pool deactivate --all p
dmsetup remove slow
must "$dmthin" check $meta
say "killed during a snapshot"

# --- a thousand
pool activate p --metadata $meta --data $data
pool create-thin p 1000-1999
pool reserve-metadata-snap p >/dev/null
expect "thin devices" 1000 "$(ids | tr ' ' '\n' | grep -c '^1...$')"
pool release-metadata-snap p
refused 64 'that id already exists' create-thin p 900-1100
refused 64 'already deleted: 1990 to 1999' delete p 1990-2500
pool delete p 1000-1989
pool reserve-metadata-snap p >/dev/null
ids | tr ' ' '\n' | grep '^[12]...$' && fail "they are still there"
pool release-metadata-snap p
pool deactivate --all p
must "$dmthin" check $meta
nothing_left_over
say "a thousand thin devices made and deleted"

# --- without the kernel's target the pool is served, as soon as it is back the kernel has it
loader=$(cat /proc/sys/kernel/modprobe)
unload() { must modprobe -r dm-thin-pool; }
unload
# Neither the kernel nor dmthin finds the module now.
options=$MODPROBE_OPTIONS
export MODPROBE_OPTIONS='-d /nowhere'
echo /bin/false >/proc/sys/kernel/modprobe
refused 64 'the kernel has no thin-pool target; without --no-fallback' activate p --metadata $meta --data $data --no-fallback
refused 64 'there is no thin-pool target' activate p --metadata $meta --data $data --backend kernel
pool activate p --metadata $meta --data $data --volume t1=1:16m
grep -q 'the kernel has no thin-pool target; it is served by a new server' /tmp/err || fail "$(cat /tmp/err)"
grep -q '^t1: nbd+unix:///t1?socket=/run/dmthin/p.served/nbd$' /tmp/err || fail "$(cat /tmp/err)"
dmsetup info p >/dev/null 2>&1 && fail "the kernel has p"
pool snapshot p 80 1
refused 75 'in use' activate q --metadata $meta --data $data
echo "$loader" >/proc/sys/kernel/modprobe
export MODPROBE_OPTIONS="$options"
# A pool of the kernel's beside it, whose name is the same as one that is served: neither is taken silently.
truncate -s 4M /tmp/other.meta; truncate -s 64M /tmp/other.data
dmsetup create p --table '0 8 zero'
refused 64 'more than one' deactivate p
dmsetup remove p
pool create other --metadata /tmp/other.meta --data /tmp/other.data
grep -q 'is a file, which the kernel does not accept; it is served by' /tmp/err || fail "$(cat /tmp/err)"
expect "pools" 'other p ' "$(pool status --json | jq -r '.pools[] | select(.backend == "userspace").name' | sort | tr '\n' ' ')"
pool deactivate other
pool deactivate --all p
expect "targets" '' "$(dmsetup targets | grep '^thin')"
pool activate p --metadata $meta --data $data --volume t1=1:16m --volume copy=80:16m
expect backend kernel "$(pool status --json p | jq -r '.pools[].backend')"
thin_verify t1 7 0 8
thin_verify copy 7 0 8
pool deactivate --all p
must "$dmthin" check $meta
say "served while the kernel has no target"
