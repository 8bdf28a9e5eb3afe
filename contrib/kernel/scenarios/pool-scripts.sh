#!/bin/sh
# The kernel plays scripts of pool operations; the results are left for comparison.
#
# usage: contrib/kernel/run scenarios/pool-scripts.sh -- DIR
#
#   DIR  has the scripts, DIR/N.script; DMTHIN_SCRIPTS names it as well, so that the rig can see it
#
# DMTHIN_PROGRAMS names the folder of pool-script. Its help lists the files that it leaves in DIR.
. "$DMTHIN_RIG/lib.sh"

must "${DMTHIN_PROGRAMS:?names the directory of pool-script}/pool-script" kernel "$1"
