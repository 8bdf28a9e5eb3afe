#!/bin/sh
# lvm2 of an installed system calls the tools that are installed there, and works with them.
#
# usage: DMTHIN_ROOT=FOLDER contrib/kernel/run scenarios/packages.sh DISK -- STATUS
#
#   FOLDER  the root of a system with lvm2
#   DISK    an image of zeros of 256 MiB
#   STATUS  with which the thin_check that is installed there ends upon damage: 64 of ours, 1 of 0.9.0
#
# lvm2 is told nothing about tools: it finds them where Debian built it to look.
if [ -n "${DMTHIN_ROOT-}" ]; then
    set -eu
    mount --rbind /dev "$DMTHIN_ROOT/dev"
    mount -t proc proc "$DMTHIN_ROOT/proc"
    mount -t sysfs sysfs "$DMTHIN_ROOT/sys"
    mount -t tmpfs tmpfs "$DMTHIN_ROOT/tmp"
    mount -t tmpfs tmpfs "$DMTHIN_ROOT/run"
    mkdir "$DMTHIN_ROOT/run/lock"
    cp -r "$DMTHIN_RIG" "$DMTHIN_ROOT/tmp/rig"
    root=$DMTHIN_ROOT
    unset DMTHIN_ROOT
    export DMTHIN_RIG=/tmp/rig PATH=/usr/sbin:/usr/bin:/sbin:/bin
    cd /
    exec chroot "$root" /tmp/rig/scenarios/packages.sh "$@"
fi
. "$DMTHIN_RIG/lib.sh"
status=$1

lvm_configure ubd
for tool in thin_check thin_dump thin_repair; do
    expect "lvm2's path of $tool" "${tool}_executable=\"/usr/sbin/$tool\"" \
        "$(lvmconfig --typeconfig full "global/${tool}_executable")"
done
write() { "$rig" pattern "$2" 65536 0 "$3" | must dd of="/dev/vg/$1" bs=64k iflag=fullblock conv=fsync,notrunc status=none; }
digest() { for volume in vol snap; do must sha256sum "/dev/vg/$volume"; done; }
up() { quietly lvchange -ay -K vg/pool vg/vol vg/snap; }
down() { quietly vgchange -an vg; }

quietly pvcreate /dev/ubda
quietly vgcreate vg /dev/ubda
quietly lvcreate --type thin-pool -L 128M --poolmetadatasize 4M --chunksize 64k -n pool vg
quietly lvcreate -V 48M -n vol --thinpool vg/pool
write vol 1 500
quietly lvcreate -s -n snap vg/vol
quietly lvchange -ay -K vg/snap
write vol 2 100
digest >/tmp/digest

down
must lvchange -ay -vvvv vg/pool >/tmp/log 2>&1
grep -q 'Executing.*/usr/sbin/thin_check' /tmp/log || fail "lvm2 did not run thin_check: $(tail -n 5 /tmp/log)"
up
digest | must cmp - /tmp/digest
say "activated, checked by $(thin_check -V 2>&1 | head -n 1)"

# The module for dracut knows a device that needs the tools.
module=/usr/lib/dracut/modules.d/90dmthin/module-setup.sh
if [ -f $module ]; then
    for device in vg-vol vg-pool-tpool; do
        number=$(dmsetup info -c --noheadings --separator : -o major,minor $device)
        must bash -c '. "$0"; has_thin_target "$1"' $module "$number"
    done
    number=$(dmsetup info -c --noheadings --separator : -o major,minor vg-pool_tmeta)
    if bash -c '. "$0"; has_thin_target "$1"' $module "$number"; then fail "vg-pool_tmeta passes for thin"; fi
fi

down
quietly lvconvert --yes --repair vg/pool
up
digest | must cmp - /tmp/digest
say "repaired"

# Damage below the superblock, in metadata that is taken out of the pool and put back.
down
quietly lvcreate -an -Zn -Wn -L 4M -n old vg
quietly lvconvert --yes --thinpool vg/pool --poolmetadata vg/old
quietly lvchange -ay vg/old
must dd if=/dev/urandom of=/dev/vg/old bs=4096 seek=1 count=64 conv=fsync,notrunc status=none
quietly lvchange -an vg/old
quietly lvconvert --yes --thinpool vg/pool --poolmetadata vg/old
if lvchange -ay vg/pool >/tmp/log 2>&1; then fail "lvm2 activated a pool on damaged metadata"; fi
grep -q "(status:$status)" /tmp/log || fail "no status $status: $(cat /tmp/log)"
say "damage refused with status $status"
