#!/bin/sh
# The kernel carries out traces of pool operations; what the metadata looks like is left for others to
# compare.
#
# usage: contrib/kernel/run scenarios/traces.sh -- DIR
#
#   DIR  has the traces, DIR/NAME.ops; DMTHIN_TRACES names it as well, so that it is seen in here
#
# See contrib/kernel/RigProgram/KernelPlayer.swift for what is left in DIR.
. "$DMTHIN_RIG/lib.sh"

must "$rig" traces "$1"
