#!/bin/sh
# dmthin pool in every mode of a pool: the output of status, events and doctor, the results of
# verbs, and whether the doctor's advice helps.
#
# usage: contrib/kernel/run scenarios/pool-modes.sh META DATA
#
#   META, DATA  images of zeros, 8 MiB and 64 MiB
#
# DMTHIN_TOOLS names the directory of dmthin. Modes are reached for real: full data with both policies,
# full metadata, metadata whose writes fail (read-only, needs a check), metadata whose reads fail as
# well (failed), a metadata device given as data and the other way round.
. "$DMTHIN_RIG/verbs.sh"

meta=/dev/mapper/meta data=/dev/mapper/data

doctor() { # STATUS CODE[,CODE...] WORDS ARGUMENT...: the codes that are found, and words of a command
    local wanted=$1 codes=$2 words=$3 status=0; shift 3
    "$dmthin" pool doctor --json "$@" >/tmp/out 2>/tmp/err || status=$?
    # Whether a transaction was under way when writes began to fail, depends on when the kernel commits.
    expect "doctor $*" "$codes" "$(grep -o '"code":"[^"]*"' /tmp/out | cut -d'"' -f4 |
        grep -v '^interrupted-transaction$' | paste -sd,)"
    expect "status of doctor $*" "$wanted" $status
    grep -qF -- "$words" /tmp/out || fail "doctor $*: no '$words' in: $(cat /tmp/out)"
}
watch() { # COUNT FILE: events of the pool, in the background
    "$dmthin" pool events p --count "$1" --timeout 60 >"$2" 2>&1 & watcher=$!
    sleep 1
}
seen() { # FILE WORDS
    wait $watcher || fail "events: $(cat "$1")"
    grep -q -- "$2" "$1" || fail "no '$2' in events: $(cat "$1")"
}
sectors() { blockdev --getsz "$1"; }
set_device() { # NAME SECTORS [TARGET [WORD...]]: sets the device below metadata or data (default: linear)
    local name=$1 size=$2 disk=/dev/ubda; [ "$name" = meta ] || disk=/dev/ubdb
    shift 2
    local table="0 $size ${1:-linear} $disk 0"
    [ $# -lt 1 ] || shift
    table="$table${*:+ $*}"
    if [ -e "/dev/mapper/$name" ]; then
        must dmsetup reload "$name" --table "$table"
        must dmsetup suspend --noflush --nolockfs "$name"
        must dmsetup resume "$name"
    else
        must dmsetup create "$name" --table "$table"
    fi
}

# --- data runs low, runs out, and grows: 64 blocks of 64 KiB at first
set_device meta 8192
set_device data 8192
pool create p --metadata $meta --data $data --low-water 8
pool create-thin p 1 --activate t1 --size 64m
doctor 0 '' '' p
watch 1 /tmp/low
# The kernel checks before it allocates a block, so that the event comes with the next one.
thin_write t1 1 0 57
seen /tmp/low 'p low-data: 7 of 64 data blocks free, low water mark 8'
doctor 65 data-nearly-full 'dmthin pool grow p' p
watch 1 /tmp/full
thin_write t1 1 57 7
dd if=/dev/zero of=/dev/mapper/t1 bs=64k seek=64 count=1 oflag=direct status=none & writer=$!
seen /tmp/full 'p mode: mode rw -> out_of_data_space'
doctor 64 data-full 'dmthin pool grow p' p
pool status p >/tmp/status
grep -q 'out of data space' /tmp/status || fail "status: $(cat /tmp/status)"
# Suspending the origin would wait for the queued write.
refused 64 'queues writes' snapshot p 2 1
refused 64 'queues writes' create-snap p 3 1 --backend kernel
set_device data 16384
doctor 64 data-full,data-grown 'dmthin pool grow p' p
expect "growth" "data: 64 -> 128 blocks" "$(pool grow p | head -n 1)"
wait $writer || fail "the queued write failed"
expect mode rw "$(pool_field p 5)"
thin_verify t1 1 0 64
pool snapshot p 2 1
pool delete p 2
# The other policy: nothing waits.
pool features p --enable error_if_no_space
thin_write t1 1 65 63
dd if=/dev/zero of=/dev/mapper/t1 bs=64k seek=200 count=1 oflag=direct status=none 2>/tmp/dd && fail "it was written"
grep -q 'No space left' /tmp/dd || fail "dd: $(cat /tmp/dd)"
doctor 64 data-full 'writes that need a block fail' p
thin_discard t1 65 63
sleep 2
expect 'mode after a discard' rw "$(pool_field p 5)"
set_device data 4096
refused 64 'must not become smaller' grow p
set_device data 16384
say "data: low, full, grown, with both policies"

# --- metadata runs out: a table of one that has 1024 blocks, most of which are taken
pool deactivate --all p
set_device data 131072
set_device meta 512
dd if=/dev/zero of=$meta bs=4096 count=1 conv=fsync oflag=direct status=none
pool create p --metadata $meta --data $data --features skip_block_zeroing --block-size 64k
pool create-thin p 1 --activate t1 --size 64m
watch 3 /tmp/events
i=0
while [ $i -lt 40 ]; do
    "$dmthin" pool create-thin p $((100 + i * 10))-$((109 + i * 10)) >/dev/null 2>&1 || break
    i=$((i + 1))
done
[ "$(pool_field p 5)" = ro ] || fail "metadata is not full: $(pool_status p)"
kill $watcher 2>/dev/null || :; wait $watcher || :
grep -q low-metadata /tmp/events || fail "no low-metadata in: $(cat /tmp/events)"
doctor 64 metadata-full "enlarge $meta" p
refused 64 'accepts no changes in its present mode' create-thin p 2
set_device meta 8192
doctor 64 metadata-full,metadata-grown 'dmthin pool grow p' p
pool grow p >/dev/null
expect mode rw "$(pool_field p 5)"
pool create-thin p 2
pool deactivate --all p
must "$dmthin" check $meta >/dev/null
say "metadata: full, grown"

# --- writes of metadata fail: read-only, needs a check; repaired as doctor says
pool activate p --metadata $meta --data $data
pool activate-thin p t1 1 64m
thin_write t1 1 0 4
watch 2 /tmp/events
set_device meta 8192 flakey 0 3600 1 error_writes
"$dmthin" pool create-thin p 7000 2>/dev/null || :
until [ "$(pool_field p 5)" = ro ]; do :; done
seen /tmp/events 'p needs-check: '
grep -q 'mode rw -> ro' /tmp/events || fail "events: $(cat /tmp/events)"
doctor 64 needs-check "dmthin pool deactivate --all p" p
refused 64 'needs a check' grow p
refused 64 'needs a check' features p --low-water 3
refused 64 'accepts no changes in its present mode' create-thin p 3
refused 64 'accepts no changes in its present mode' reserve-metadata-snap p
# The kernel writes the flag when the pool is removed.
set_device meta 8192
pool deactivate --all p
doctor 64 needs-check,not-all-checked 'thin_check --auto-repair' $meta
refused 64 'thin_check --auto-repair' activate p --metadata $meta --data $data
must "$dmthin" check --auto-repair $meta >/dev/null
pool activate p --metadata $meta --data $data
pool activate-thin p t1 1 64m
thin_verify t1 1 0 4
say "metadata: writes failed"

# --- reads fail as well: failed
watch 1 /tmp/events
set_device meta 8192 flakey 0 3600
"$dmthin" pool create-thin p 7001 2>/dev/null || :
"$dmthin" pool create-thin p 7002 2>/dev/null || :
"$dmthin" pool status p >/tmp/status
seen /tmp/events 'mode: mode rw -> fail'
grep -q 'p (.*): failed' /tmp/status || fail "status: $(cat /tmp/status)"
doctor 64 failed 'dmthin pool deactivate --all p' p
refused 64 'accepts no changes' create-thin p 3
refused 64 'which has failed' grow p
refused 64 'has failed' reserve-metadata-snap p
pool status --json >/tmp/json
python3 -c 'import json,sys; assert json.load(open("/tmp/json"))["pools"][0]["mode"] == "fail"'
set_device meta 8192
pool deactivate t1
pool deactivate --all p
must "$dmthin" check --auto-repair $meta >/dev/null
pool activate p --metadata $meta --data $data
say "metadata: reads failed"

# --- transaction id, a waiting table, suspended devices, wrong devices
doctor 64 transaction-id 'dmthin pool set-transaction-id p 0 5' p --expect-transaction-id 5
pool activate-thin p t1 1 64m
dmsetup suspend t1
dmsetup reload p --table "$(dmsetup table p)"
doctor 64 table-waits,thin-suspended 'dmthin dm resume t1' p
dmsetup clear p
dmsetup resume t1
pool_message p reserve_metadata_snap
doctor 65 metadata-snapshot-unknown 'dmthin pool release-metadata-snap p' p
pool release-metadata-snap p
pool deactivate --all p
doctor 64 swapped "dmthin pool doctor $meta --data $data" $data --data $meta
doctor 64 transaction-id,not-all-checked 'set-transaction-id' $meta --expect-transaction-id 7
set_device data 4096
doctor 64 data-too-small,not-all-checked "it is another pool's" $meta --data $data
refused 64 'not its data device' activate p --metadata $meta --data $data
set_device data 131072
set_device meta 4096
doctor 64 metadata-cut,damaged '' $meta
set_device meta 8192
doctor 0 not-all-checked thin_check $meta --data $data
say "transaction id, what is left over, wrong devices"
