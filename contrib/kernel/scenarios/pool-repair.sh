#!/bin/sh
# dmthin pool in case of failures: tables with which the kernel cannot resume, devices that are open
# or renamed, pools that fill up, and transaction ids that differ between lvm2 and a pool.
#
# usage: contrib/kernel/run scenarios/pool-repair.sh META DATA DISK
#
#   META, DATA, DISK  images of zeros, 2 MiB, 32 MiB and 256 MiB
#
# DMTHIN_TOOLS names the directory of dmthin. The commands that the doctor suggests are run. There is no udev.
. "$DMTHIN_RIG/verbs.sh"

meta=/dev/ubda data=/dev/ubdb disk=/dev/ubdc

doctor() { # STATUS WORDS ARGUMENT...; its output goes to /tmp/out
    local wanted=$1 words=$2 status=0; shift 2
    "$dmthin" pool doctor "$@" >/tmp/out 2>/tmp/err || status=$?
    grep -q -- "$words" /tmp/out || fail "doctor $*: no '$words' in: $(cat /tmp/out /tmp/err)"
    expect "status of doctor $* ($(cat /tmp/out))" "$wanted" $status
}
next() { # WORDS: runs the command that the doctor names with these words
    local command
    command=$(sed -n "s/^  next: dmthin \(.*$1.*\)/\1/p" /tmp/out | head -n 1)
    [ -n "$command" ] || fail "no next command with '$1': $(cat /tmp/out)"
    must sh -c "\"$dmthin\" $command"
}
suspended() { dmsetup info -c --noheadings -o suspended "$1"; }

# --- a table that the kernel loads but cannot resume with: the metadata cannot record the larger
# data device. The old table is restored, and the pool continues, read-only until it is checked.
sectors=$(blockdev --getsz $data)
dmsetup create data --table "0 $sectors linear $data 0"
pool create p --metadata $meta --data /dev/mapper/data --block-size 64k
pool create-thin p 1 --activate t1 --size 16m
thin_write t1 1 0 32
before=$(dmsetup table p)
printf '0 %s linear %s 0\n%s 1099511627776 zero\n' "$sectors" $data "$sectors" | dmsetup reload data
dmsetup resume data
refused 64 'the old table is in use' grow p
expect table "$before" "$(dmsetup table p)"
expect p Active "$(suspended p)"
nothing_left_over
thin_verify t1 1 0 32
echo "0 $sectors linear $data 0" | dmsetup reload data
dmsetup resume data
doctor 64 'until the metadata is checked' p
next 'pool deactivate --all p'
must "$dmthin" check --auto-repair $meta >/dev/null
next 'pool activate p'
pool activate-thin p t1 1 16m
thin_verify t1 1 0 32
# The metadata device has become smaller: neither table works, and the pool stays suspended until it
# is as large again. The advice is correct, and the next command follows it by itself.
pool deactivate --all p
msectors=$(blockdev --getsz $meta)
dmsetup create meta --table "0 $msectors linear $meta 0"
pool activate p --metadata /dev/mapper/meta --data /dev/mapper/data
pool activate-thin p t1 1 16m
echo "0 $((msectors / 2)) linear $meta 0" | dmsetup reload meta
dmsetup resume meta
refused 64 'p is still suspended' features p --enable error_if_no_space
grep -q 'or run: dmthin dm resume p$' /tmp/err || fail "what to do: $(cat /tmp/err)"
expect p Suspended "$(suspended p)"
echo "0 $msectors linear $meta 0" | dmsetup reload meta
dmsetup resume meta
pool status >/dev/null
grep -q "resumed p with its old table, left by 'change the features of p'" /tmp/err || fail "$(cat /tmp/err)"
nothing_left_over
case $(dmsetup table p) in *error_if_no_space*) fail "the new table is in use" ;; esac
thin_verify t1 1 0 32
say "tables that the kernel does not resume with"

# --- after renames, a lease and an interrupted verb are still found
root=$(pool reserve-metadata-snap p --owner backup)
dmsetup rename p renamed
refused 75 "'backup' holds the metadata snapshot" reserve-metadata-snap renamed
pool deactivate --all renamed
pool activate p --metadata /dev/mapper/meta --data /dev/mapper/data
expect 'held root' "$root" "$(pool_field p 4)"
refused 75 'give --owner backup' release-metadata-snap p
pool release-metadata-snap p --owner backup
pool deactivate p
dmsetup remove meta
dmsetup create slow --table "0 $msectors delay $meta 0 0 $meta 0 400 $meta 0 400"
pool activate p --metadata /dev/mapper/slow --data /dev/mapper/data
pool activate-thin p t1 1 16m
"$dmthin" pool snapshot p 11 1 2>/tmp/err & killed=$!
until [ "$(suspended t1)" = Suspended ]; do :; done
kill -9 $killed; wait $killed 2>/dev/null || :
dmsetup rename t1 elsewhere
pool status >/dev/null
grep -q "resumed elsewhere, left by 'snapshot'" /tmp/err || fail "$(cat /tmp/err)"
nothing_left_over
pool deactivate --all p
dmsetup remove slow
say "renamed pools and devices"

# --- an open device is removed when it is closed
pool activate p --metadata $meta --data /dev/mapper/data
pool activate-thin p t1 1 16m
sh -c 'exec sleep 60 <"$0"' /dev/mapper/t1 & holder=$!
until [ "$(dmsetup info -c --noheadings -o open t1)" = 1 ]; do :; done
pool deactivate --deferred t1
dmsetup info t1 | grep -q 'DEFERRED REMOVE' || fail "t1 is not to be removed: $(dmsetup info t1)"
kill $holder; wait $holder 2>/dev/null || :
n=0
while dmsetup info t1 >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 200 ] || fail "t1 is still there"; done
say "deactivate --deferred"

# --- how long space lasts, from two measurements of a pool that fills up
pool activate-thin p t1 1 32m
thin_write t1 1 0 420
doctor 65 'data blocks are in use' p
(sleep 1; thin_write t1 1 420 20) &
doctor 65 'full in [0-9]* \(seconds\|minutes\) at the present rate' p --sample 3
wait $!
doctor 65 'not growing at present' p --sample 1
say "doctor --sample"

# --- at rest: every mapping is checked on request
pool deactivate --all p
doctor 0 'mappings and reference counts were not checked' $meta --data /dev/mapper/data
doctor 0 'no problems found' $meta --data /dev/mapper/data --full
doctor 64 'are swapped' /dev/mapper/data --data $meta
# A lost mapping tree is damage for --full, and not found by a quick check.
must "$dmthin" dump $meta >/tmp/before.xml
dd if=$meta of=/tmp/copy bs=1M status=none
damaged=''
for block in $(seq 1 60); do
    dd if=/tmp/copy of=/tmp/damaged bs=1M status=none
    dd if=/dev/zero of=/tmp/damaged bs=4096 seek="$block" count=1 conv=notrunc status=none
    status=0; "$dmthin" pool doctor /tmp/damaged >/tmp/out || status=$?
    [ $status -eq 0 ] || continue
    status=0; "$dmthin" pool doctor --full /tmp/damaged >/tmp/out || status=$?
    [ $status -eq 64 ] || continue
    grep -q 'thin_dump --repair' /tmp/out || fail "doctor --full: $(cat /tmp/out)"
    damaged=$block
    break
done
[ -n "$damaged" ] || fail "no block whose loss only --full sees"
dmsetup remove data
say "doctor of a pool at rest"

# --- lvm2's transaction id differs from the pool's: which program expects which, and the fix
lvm_configure ubdc 'thin_check_executable = ""'
quietly vgcreate vg $disk
quietly lvcreate -Zn -L 64m -V 32m -T vg/pool -n one
doctor 0 'no problems found' vg/pool
pool set-transaction-id vg/pool 1 7
doctor 64 'transaction id is 7, but lvm2 expects 1: the metadata is newer' vg/pool
! lvcreate -V 32m -T vg/pool -n two >/tmp/log 2>&1 || fail "lvm2 has not noticed"
next set-transaction-id
doctor 0 'no problems found' vg/pool
quietly lvcreate -V 32m -T vg/pool -n two
pool set-transaction-id vg/pool 2 1
quietly vgchange -an vg
quietly lvchange -ay -y vg/pool_tmeta
doctor 64 'transaction id is 1, but lvm2 expects 2: the metadata is older' /dev/mapper/vg-pool_tmeta
quietly lvchange -an vg/pool_tmeta
say "lvm2's transaction id"
