# await.sh: a shell function that waits; POSIX sh with local; to be sourced.
#
#     await COMMAND...    tries a command for two minutes; returns 0 as soon as it succeeds, 1 if it never does
await() {
    local tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 2400 ] || return 1
        sleep 0.05
    done
}
