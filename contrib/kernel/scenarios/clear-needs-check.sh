#!/bin/sh
# A pool that needs a check before it is writable again gets it, and is writable.
#
# usage: contrib/kernel/run scenarios/clear-needs-check.sh META DATA
#
#   META, DATA  the devices of the pool needs-check, as make-pools --keep-data leaves them (use copies)
#
# DMTHIN_TOOLS names the directory of the thin_check under test.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of the tools}

pool_create pool /dev/ubda /dev/ubdb 128 0
expect "mode and check before" "ro needs_check" "$(pool_field pool 5) $(pool_field pool 8)"
pool_remove pool

# A check alone keeps the flag.
must "$tools/thin_check" /dev/ubda >/dev/null
pool_create pool /dev/ubda /dev/ubdb 128 0
expect "mode and check after a plain check" "ro needs_check" "$(pool_field pool 5) $(pool_field pool 8)"
pool_remove pool

must "$tools/thin_check" -q --clear-needs-check-flag /dev/ubda
pool_create pool /dev/ubda /dev/ubdb 128 0
expect "mode and check after clearing" "rw -" "$(pool_field pool 5) $(pool_field pool 8)"
thin_activate thin pool 0 65536
thin_verify thin 0 0 100
thin_write thin 0 100 10
thin_verify thin 0 0 110
thin_deactivate thin
thin_create pool 99
pool_remove pool
must "$tools/thin_check" /dev/ubda >/dev/null
say "read-only before, writable after"
