# await.sh: shell functions that wait; POSIX sh with local; to be sourced.
#
#     await COMMAND...    tries a command for two minutes; returns 0 as soon as it succeeds, 1 if it never does
#     await_server PID LOG
#                         waits until the server PID has written to LOG that it serves; 1 if it ended instead
await() {
    local tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 2400 ] || return 1
        sleep 0.05
    done
}
ended_or_serves() { grep -q '^serving' "$2" || ! kill -0 "$1" 2>/dev/null; }
await_server() { await ended_or_serves "$1" "$2" && grep -q '^serving' "$2"; }
