# verbs.sh: shell functions for scenarios of dmthin pool; to be sourced:
#
#     . "$DMTHIN_RIG/verbs.sh"
#
# It sources lib.sh. DMTHIN_TOOLS names the directory of dmthin.
#
#     pool ARGUMENT...                    runs dmthin pool; its standard error goes to /tmp/err
#     refused STATUS WORDS ARGUMENT...    expects dmthin pool to exit with STATUS and a message with WORDS
#     nothing_suspended                   expects that no device is suspended
#     nothing_left_over                   the same, and no intent or half-written file in /run/dmthin
. "$DMTHIN_RIG/lib.sh"

# Not in /var, which is the host's.
export DMTHIN_ORIGINS=/tmp/origins DMTHIN_TICKETS=/tmp/tickets
dmthin=${DMTHIN_TOOLS:?names the directory of dmthin}/dmthin

pool() { must "$dmthin" pool "$@" 2>/tmp/err; }
refused() {
    local wanted=$1 words=$2 status=0; shift 2
    "$dmthin" pool "$@" >/tmp/out 2>/tmp/err || status=$?
    expect "status of pool $* ($(cat /tmp/err))" "$wanted" $status
    grep -q -- "$words" /tmp/err || fail "pool $*: no '$words' in: $(cat /tmp/err)"
}

nothing_suspended() {
    local suspended
    ! suspended=$(dmsetup info -c --noheadings -o name,suspended | grep ':Suspended') ||
        fail "suspended: $suspended"
}
nothing_left_over() {
    nothing_suspended
    [ -z "$(find /run/dmthin -name '*.intent*' -o -name '*.new')" ] || fail "left over: $(ls /run/dmthin)"
}
