#!/bin/bash
# One of lvm2's own shell tests.
#
# usage: contrib/kernel/run scenarios/lvm-shell.sh -- TEST
#
#   TEST  its name, without folder and .sh
#
# DMTHIN_LVM names lvm2's sources, built with their tests. DMTHIN_SIDE names a folder with the
# thin_check, thin_dump, thin_repair, thin_restore and dmsetup for lvm2 and the test to call. Exits
# with the test's status: 200 if it cannot run here. See contrib/kernel/lvm-tests.
set -eu
lvm=${DMTHIN_LVM:?names the sources of lvm2} side=${DMTHIN_SIDE:?names a folder of tools} test=$1

# Everything that the tests may ask for: they look for modules, and do not load all that they need.
modprobe -aq dm-raid dm-mirror raid0 raid1 raid10 raid456 dm-cache-smq dm-writecache dm-snapshot \
    dm-thin-pool dm-zero dm-delay dm-crypt dm-integrity loop ext4 xfs || :

# The test looks for its helpers in lib/ of the folder in which it is started.
mkdir -p /tmp/run/lib /tmp/first
ln -s "$lvm"/test/lib/* /tmp/run/lib/
ln -s "$lvm/test/shell" /tmp/run/shell
rm /tmp/run/lib/dmsetup
ln -s "$side/dmsetup" /tmp/run/lib/dmsetup
ln -s "$side/dmsetup" /tmp/first/dmsetup
# Modules are loaded, or cannot be.
printf '#!/bin/sh\nfor word; do :; done\ngrep -q "^$(echo "$word" | tr - _) " /proc/modules\n' >/tmp/first/modprobe
chmod +x /tmp/first/modprobe

# lvm2's programs and libraries are the built ones, except for this side's dmsetup.
export PATH="/tmp/first:$lvm/test/lib:$lvm/test/api:$PATH"
LD_LIBRARY_PATH=$(find -L "$lvm/libdm" "$lvm/tools" "$lvm/daemons" -name '*.so' -printf '%h\n' | sort -u | paste -sd:)
export LD_LIBRARY_PATH LVM_BINARY=$lvm/test/lib/lvm
for tool in check dump repair restore; do
    export "LVM_TEST_THIN_${tool^^}_CMD=$side/thin_$tool"
    # Some tests call a tool by its name alone.
    ln -s "$side/thin_$tool" "/tmp/first/thin_$tool"
done
cd /tmp/run
status=0
bash "shell/$test.sh" </dev/null || status=$?
echo "status $status"
exit $status
