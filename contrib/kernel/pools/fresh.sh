#!/bin/sh
# A pool that has just been formatted and put in service: no devices, no mappings.
# metadata-bytes: 8388608
# data-bytes: 67108864
. "$DMTHIN_RIG/lib.sh"

pool_create pool /dev/ubda /dev/ubdb 128 0
expect "used data" 0/1024 "$(pool_field pool 3)"
pool_remove pool
