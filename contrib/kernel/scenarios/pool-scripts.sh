#!/bin/sh
# The kernel plays scripts of pool operations; the results are left for comparison.
#
# usage: contrib/kernel/run scenarios/pool-scripts.sh -- ARGUMENT...
#
#   ARGUMENT...  those of pool-script: `kernel DIR`, or `turn K kernel DIR`
#
# DMTHIN_PROGRAMS names the folder of pool-script, and DMTHIN_SCRIPTS DIR as well, so that the rig can see it.
# Its help lists the files that it leaves in DIR.
. "$DMTHIN_RIG/lib.sh"

must "${DMTHIN_PROGRAMS:?names the directory of pool-script}/pool-script" "$@"
