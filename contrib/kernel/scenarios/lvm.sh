#!/bin/sh
# lvm2 manages thin pools with the tools under test, which it calls itself, and accepts their
# results.
#
# usage: contrib/kernel/run scenarios/lvm.sh DISK
#
#   DISK  an image of zeros of 256 MiB
#
# DMTHIN_TOOLS names the directory of thin_check, thin_dump, thin_restore (and thin_repair: if it is
# there, lvconvert --repair is tried as well). Covered: creation, snapshots, deactivation and activation
# (lvm calls thin_check, with its arguments and status recorded by a wrapper), metadata taken out of the
# pool, dumped, restored and swapped in again, metadata that leaks and that the tools of DMTHIN_PEER_OLDER,
# DMTHIN_PEER and our own wrote over earlier metadata, with the options for thin_check of older and of later
# releases, and damaged metadata, with which lvm must not activate.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of the tools}
calls=/tmp/lvm/calls
mkdir -p /tmp/lvm/bin

# Each call leaves a line "TOOL STATUS ARGUMENT..." in the file that $calls names.
for tool in thin_check thin_dump thin_repair thin_restore; do
    [ -x "$tools/$tool" ] || continue
    cat >/tmp/lvm/bin/$tool <<W
#!/bin/sh
"$tools/$tool" "\$@"
status=\$?
echo "$tool \$status \$*" >>$calls
exit \$status
W
    chmod +x /tmp/lvm/bin/$tool
done
tool() { [ ! -x "/tmp/lvm/bin/$1" ] || echo "$1_executable = \"/tmp/lvm/bin/$1\""; }
known() { lvmconfig --typeconfig default --withfullpath 2>/dev/null | grep -q "^$1="; }

lvm_configure ubd
restore=''
if known global/thin_restore_executable; then restore=$(tool thin_restore); fi
lvm_configure ubd "$(tool thin_check)" "$(tool thin_dump)" "$(tool thin_repair)" "$restore"

write() { "$rig" pattern "$2" 65536 0 "$3" | must dd of="/dev/vg/$1" bs=64k iflag=fullblock conv=fsync,notrunc status=none; }
digest() { for volume in vol1 vol2 snap1; do must sha256sum "/dev/vg/$volume"; done; }
down() { quietly vgchange -an vg; : >$calls; }
up() { quietly lvchange -ay -K vg/pool vg/vol1 vg/vol2 vg/snap1; }
checked() { # PATTERN: thin_check was called by lvm and ended with such a status
    grep -q "^thin_check $1 " $calls || fail "$2: no thin_check with status $1, but: $(cat $calls)"
    say "$2: $(grep -c . $calls) call(s), $(head -n 1 $calls)"
}
swap() { quietly lvconvert --yes --thinpool vg/pool --poolmetadata "vg/$1"; }

quietly pvcreate /dev/ubda
quietly vgcreate vg /dev/ubda
quietly lvcreate --type thin-pool -L 128M --poolmetadatasize 4M --chunksize 64k -n pool vg
quietly lvcreate -V 48M -n vol1 --thinpool vg/pool
quietly lvcreate -V 24M -n vol2 --thinpool vg/pool
write vol1 1 500
write vol2 2 300
quietly lvcreate -s -n snap1 vg/vol1
quietly lvchange -ay -K vg/snap1
write vol1 3 100
digest >/tmp/digest

down
up
checked 0 "activation"
digest | must cmp - /tmp/digest

# The pool's metadata, taken out by putting another volume in its place; rewritten to a third one.
down
quietly lvcreate -an -Zn -Wn -L 4M -n old vg
quietly lvcreate -an -Zn -Wn -L 4M -n new vg
swap old
quietly lvchange -ay vg/old vg/new
quietly "$tools/thin_dump" /dev/vg/old -o /tmp/xml
quietly "$tools/thin_restore" -i /tmp/xml -o /dev/vg/new
must dd if=/dev/vg/old of=/tmp/good bs=1M status=none
quietly lvchange -an vg/old vg/new
swap new
up
checked 0 "activation on restored metadata"
digest | must cmp - /tmp/digest
write snap1 4 50
digest >/tmp/digest2

# The same metadata as each of the tools writes it, onto a volume that holds earlier metadata or zeros,
# with leaked blocks, and checked by ours with plain -q, and with lvm2's default options.
empty=new other=old
for folder in "${DMTHIN_PEER_OLDER-}" "${DMTHIN_PEER-}" "$tools"; do
    [ -n "$folder" ] || continue
    for options in '"-q"' '"-q", "--clear-needs-check-flag"'; do
        down
        swap $empty         # it now has the live metadata
        quietly lvchange -ay vg/$empty vg/$other
        quietly "$folder/thin_dump" /dev/vg/$empty -o /tmp/xml
        quietly "$folder/thin_restore" -i /tmp/xml -o /dev/vg/$other
        # Leaked blocks cost space, but must not prevent activation.
        must "$rig_dir/leak" /dev/vg/$other
        if "$tools/thin_check" /dev/vg/$other >/tmp/log 2>&1; then fail "no leak: $(cat /tmp/log)"; fi
        quietly lvchange -an vg/$empty vg/$other
        swap $other
        was=$other; other=$empty; empty=$was
        lvm_configure ubd "$(tool thin_check)" "$(tool thin_dump)" "$(tool thin_repair)" "$restore" \
            "thin_check_options = [ $options ]"
        up
        checked 0 "metadata that leaks, by $("$folder/thin_restore" -V 2>&1 | head -n 1)"
        digest | must cmp - /tmp/digest2
    done
done
lvm_configure ubd "$(tool thin_check)" "$(tool thin_dump)" "$(tool thin_repair)" "$restore"

# Damage below the superblock: thin_check finds it, and lvm does not activate the pool.
down
swap old        # old now is the live metadata, new the damaged
quietly lvchange -ay vg/old
must dd if=/dev/vg/old of=/tmp/good bs=1M status=none
must dd if=/dev/urandom of=/dev/vg/old bs=4096 seek=1 count=64 conv=fsync,notrunc status=none
quietly lvchange -an vg/old
swap old
if lvchange -ay vg/pool >/tmp/log 2>&1; then fail "lvm activated a pool on damaged metadata: $(cat /tmp/log)"; fi
checked "[1-9][0-9]*" "activation on damaged metadata (refused)"

swap new        # new now holds the damage
quietly lvchange -ay vg/new
must dd if=/tmp/good of=/dev/vg/new bs=1M conv=fsync,notrunc status=none
quietly lvchange -an vg/new
swap new
up
digest | must cmp - /tmp/digest2

if [ -x /tmp/lvm/bin/thin_repair ]; then
    down
    quietly lvconvert --yes --repair vg/pool
    grep -q '^thin_repair 0 ' $calls || fail "lvconvert --repair did not call thin_repair: $(cat $calls)"
    say "lvconvert --repair: $(paste -sd'|' $calls)"
    up
    digest | must cmp - /tmp/digest2

    # By hand: the metadata repaired into a file, and then what thin_repair says to do next, twice, since the
    # same command swaps the old metadata back.
    down
    quietly lvchange -y -ay vg/pool_tmeta
    must truncate -s 4M /tmp/repaired
    must "$tools/thin_repair" -i /dev/vg/pool_tmeta -o /tmp/repaired >/tmp/says
    quietly lvchange -an vg/pool_tmeta
    sed -n 's/^next: //p' /tmp/says >/tmp/next
    [ "$(wc -l </tmp/next)" = 3 ] || fail "thin_repair does not say what to do next: $(cat /tmp/says)"
    quietly sh -e /tmp/next
    up
    checked 0 "activation after the commands that thin_repair prints"
    digest | must cmp - /tmp/digest2
    down
    tail -n 1 /tmp/next >/tmp/back
    quietly sh -e /tmp/back
    up
    digest | must cmp - /tmp/digest2
fi
down
quietly vgremove --yes --force vg
say "all done"
