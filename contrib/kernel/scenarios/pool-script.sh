#!/bin/sh
# Runs pool-script in the rig with the arguments given.
#
# usage: contrib/kernel/run scenarios/pool-script.sh -- ARGUMENT...
#
# DMTHIN_PROGRAMS names the folder of pool-script, and DMTHIN_SCRIPTS that of the scripts, so that the rig can see it.
. "$DMTHIN_RIG/lib.sh"

"${DMTHIN_PROGRAMS:?names the directory of pool-script}/pool-script" "$@" || fail "pool-script $* (status $?)"
