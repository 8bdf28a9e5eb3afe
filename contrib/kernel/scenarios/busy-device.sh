#!/bin/sh
# The tools refuse to open the metadata device of an active pool as if the pool was at rest.
#
# usage: contrib/kernel/run scenarios/busy-device.sh META DATA
#
#   META, DATA  images of zeros, 8 MiB and 64 MiB
#
# DMTHIN_TOOLS names the directory of the tools. Without -m every tool is refused with status 75 and a
# message that says why, and changes nothing; with -m the readers work; once the pool is gone all do.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of the tools}

refused() { # TOOL ARGUMENT...
    local tool=$1 status=0; shift
    "$tools/$tool" "$@" >/tmp/out 2>/tmp/err || status=$?
    expect "status of $tool $*" 75 $status
    grep -q "in use" /tmp/err || fail "$tool $*: no 'in use' in: $(cat /tmp/err)"
    [ ! -s /tmp/out ] || fail "$tool $*: output: $(cat /tmp/out)"
}

pool_create pool /dev/ubda /dev/ubdb 128 0
thin_create pool 1
thin_activate thin pool 1 8192
thin_write thin 1 0 8
pool_message pool reserve_metadata_snap
must "$tools/thin_dump" -m /dev/ubda -o /tmp/xml

for tool in thin_check thin_dump thin_ls; do refused $tool /dev/ubda; done
refused thin_check --clear-needs-check-flag /dev/ubda
refused thin_check --auto-repair /dev/ubda
refused thin_restore -i /tmp/xml -o /dev/ubda
for tool in thin_check thin_dump thin_ls; do must "$tools/$tool" -m /dev/ubda >/tmp/out; done

# Nothing was changed in the pool's metadata.
thin_write thin 1 8 8
thin_verify thin 1 0 16
thin_deactivate thin
pool_remove pool
for tool in thin_check thin_dump thin_ls; do must "$tools/$tool" /dev/ubda >/tmp/out; done
say "refused while active, accepted at rest"
