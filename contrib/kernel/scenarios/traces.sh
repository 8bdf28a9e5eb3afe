#!/bin/sh
# The kernel plays traces of pool operations; its metadata is left for comparison.
#
# usage: contrib/kernel/run scenarios/traces.sh -- DIR
#
#   DIR  has the traces, DIR/NAME.ops; DMTHIN_TRACES names it as well, so that the rig can see it
#
# See contrib/kernel/RigProgram/KernelPlayer.swift for what is left in DIR.
. "$DMTHIN_RIG/lib.sh"

must "$rig" traces "$1"
