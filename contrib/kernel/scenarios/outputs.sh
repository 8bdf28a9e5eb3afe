#!/bin/sh
# Tests every tool that writes with every kind of output, as cells of a table.
#
# usage: contrib/kernel/run scenarios/outputs.sh META DATA SPARE
#
#   META, DATA, SPARE  images of zeros, 4 MiB, 64 MiB and 4 MiB
#
# DMTHIN_TOOLS names the directory of the tools. A cell is the exit status and the fate of the
# earlier contents: "kept" (text: every byte; metadata: the same dump, and no findings of
# thin_check), "new" if they were overwritten, or "-" if there were none.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of the tools}
PATH=$tools:$PATH
cd /tmp
table=''

state() { # FILE: prints a digest of its contents
    if [ ! -e "$1" ]; then echo none
    elif [ -p "$1" ] || [ -c "$1" ]; then echo stream
    elif thin_check -q "$1" 2>/dev/null; then thin_dump "$1" | md5sum
    else md5sum <"$1"
    fi
}

cell() { # ROW COLUMN STATUS kept|new|- WATCHED COMMAND...
    local row=$1 column=$2 status=$3 kept=$4 watched=$5 before after found=0; shift 5
    before=''
    [ "$kept" = - ] || before=$(state "$watched")
    "$@" >/tmp/said 2>&1 </dev/null || found=$?
    [ "$found" = "$status" ] ||
        fail "$row, $column: expected status $status, found $found: $* : $(cat /tmp/said)"
    if [ "$kept" != - ]; then
        after=$(state "$watched")
        case $kept in
            kept) [ "$before" = "$after" ] || fail "$row, $column: $watched has changed: $*" ;;
            new) [ "$before" != "$after" ] || fail "$row, $column: $watched has not changed: $*" ;;
        esac
    fi
    table="$table$row|$column|$found $kept
"
}

# A pool with two states: more devices in the second, and a needs-check flag to be cleared.
pool_create pool /dev/ubda /dev/ubdb 128 0
for id in 1 2 3; do thin_create pool $id; done
thin_activate thin pool 1 8192
thin_write thin 1 0 16
thin_deactivate thin
pool_remove pool
must thin_dump -o one.xml /dev/ubda
sed 's/<superblock /<superblock flags="1" /' one.xml >flagged.xml
sed 's/transaction="[0-9]*"/transaction="9"/' one.xml >other.xml
{ cat one.xml; echo '<superblock/>'; } >late.xml
truncate -s 4M flagged
must thin_restore -q -i flagged.xml -o flagged
renew() { # FILE: metadata that every tool has something to do with
    rm -f "$1"
    case $row in create-thin) cp m0 "$1" ;; format) truncate -s 4M "$1" ;; *) cp flagged "$1" ;; esac
}
truncate -s 4M m0
must thin_restore -q -i one.xml -o m0
# Its second half is damaged: a dump of it fails halfway.
cp m0 damaged
must "$DMTHIN_PROGRAMS/rig" spoil-leaf damaged

rows='auto-repair clear-flag create-thin format'
write() { # ROW OUTPUT: the command of a tool that writes metadata
    case $1 in
        restore) thin_restore -i other.xml -o "$2" ;;
        auto-repair) thin_check --auto-repair "$2" ;;
        clear-flag) thin_check --clear-needs-check-flag "$2" ;;
        create-thin) dmthin pool create-thin --backend offline "$2" 77 ;;
        format) dmthin pool format "$2" --data-block-size 128 --nr-data-blocks 512 ;;
    esac
}

# The output is the input, under each possible name.
cp one.xml text; ln text text.hard; ln -s text text.link
cp m0 m; ln m m.hard; ln -s m m.link
cell dump same 73 kept m thin_dump -o m m
cell dump hard-link 73 kept m thin_dump -o m.hard m
cell dump symlink 73 kept m thin_dump -o m.link m
touch bound; mount --bind m bound
cell dump bind-mount 73 kept m thin_dump -o bound m
umount bound
cell dump-repair same 73 kept m thin_dump --repair -o m.link m
cell restore same 73 kept text thin_restore -i text -o text
cell restore hard-link 73 kept text thin_restore -i text -o text.hard
cell restore symlink 73 kept text thin_restore -i text -o text.link
# For a checked or changed device the input is the output, under each possible name: the result is
# the same.
for row in $rows; do
    for column in same hard-link symlink; do
        renew m; ln -f m m.hard
        case $column in same) out=m ;; hard-link) out=m.hard ;; symlink) out=m.link ;; esac
        cell $row $column 0 new m write $row $out
    done
done
# The output has another name too: a text is replaced under the given name only, metadata in place.
echo old >old; ln old old.hard; ln -s old old.link
cell dump other-symlink 0 new old thin_dump -o old.link m0
[ -L old.link ] || fail "the link was replaced, not the file"
[ "$(cat old.hard)" = old ] || fail "the other name of the old file has the new text"
cell dump other-metadata 73 kept m thin_dump -o m flagged

# The output is in use by a server, by a loop device below a pool, or by the kernel.
cp m0 m; truncate -s 64M served.data
dmthin serve --socket s --metadata m --data served.data --volume v=1:64m >log 2>&1 &
server=$!
await grep -q ^serving log || fail "no server: $(cat log)"
bytes() { md5sum <"$1"; }
served=$(bytes m)
for row in dump restore $rows; do
    case $row in
        dump) cell dump server 75 - m thin_dump -o m m0 ;;
        *) cell $row server 75 - m write $row m ;;
    esac
    grep -q "dmthin-server (process $server)" said || [ $row = format ] || fail "$row does not name the server: $(cat said)"
done
[ "$served" = "$(bytes m)" ] || fail "what is served has changed"
kill $server
wait $server || fail "the server ended with $?"
unchanged() { [ "$(bytes "$1")" = "$2" ] || fail "$1 has changed while in use"; }
cp m0 looped
loop=$(losetup --show -f looped)
pool_create pool "$loop" /dev/ubdb 128 0
held=$(bytes looped)
cell dump kernel-loop 75 - looped thin_dump -o looped m0
for row in restore $rows; do cell $row kernel-loop 75 - looped write $row looped; done
unchanged looped "$held"
pool_remove pool
losetup -d "$loop"
pool_create pool /dev/ubda /dev/ubdb 128 0
held=$(bytes /dev/ubda)
cell dump kernel 75 - /dev/ubda thin_dump --onto-device -o /dev/ubda m0
for row in restore $rows; do cell $row kernel 75 - /dev/ubda write $row /dev/ubda; done
grep -q 'part of pool' said || fail "the kernel's pool is not named: $(cat said)"
unchanged /dev/ubda "$held"
pool_remove pool

# Block devices.
cell dump device 73 kept /dev/ubdc thin_dump -o /dev/ubdc m0
cell dump device-asked 0 new /dev/ubdc thin_dump --onto-device -o /dev/ubdc m0
head -c "$(stat -c %s one.xml)" /dev/ubdc | cmp -s - one.xml || fail "the device does not have the text"
for row in restore $rows; do
    case $row in
        format) dd if=/dev/zero of=/dev/ubdc bs=64k count=64 status=none ;;
        *) dd if=flagged of=/dev/ubdc bs=64k status=none ;;
    esac
    [ $row != create-thin ] || dd if=m0 of=/dev/ubdc bs=64k status=none
    cell $row device 0 new /dev/ubdc write $row /dev/ubdc
done

# Pipes, and descriptors.
mkfifo fifo
cell dump pipe 0 - x sh -c 'cat fifo >piped & thin_dump -o fifo m0 && wait && cmp piped one.xml'
cell dump null 0 - x thin_dump -o /dev/null m0
cell dump descriptor 0 - x sh -c '{ echo before; thin_dump -o /proc/self/fd/1 m0; } >piped && tail -n +2 piped | cmp - one.xml'
cell dump own-fd 0 - x sh -c 'thin_dump -o /proc/self/fd/3 m0 3>piped && cmp piped one.xml'
row=restore; renew m
cell restore from-pipe 0 new m sh -c 'cat other.xml | thin_restore -i /proc/self/fd/0 -o m'
cell restore from-fd 0 - x sh -c 'thin_restore -i /proc/self/fd/5 -o /proc/self/fd/6 5<one.xml 6<>m'
cell restore onto-pipe 73 - x write restore fifo
for row in auto-repair clear-flag create-thin; do cell $row pipe 66 - x write $row fifo; done
cell format pipe 73 - x write format fifo

# A full file system, for sparse metadata and for an existing text.
mkdir full; mount -t tmpfs -o size=1536k none full
for row in restore $rows; do
    rm -f full/*
    case $row in
        format) truncate -s 4M full/m ;;
        create-thin) cp --sparse=always m0 full/m ;;
        *) cp --sparse=always flagged full/m ;;
    esac
    dd if=/dev/zero of=full/rest bs=4k status=none 2>/dev/null || :
    case $row in
        # Only the flag is changed, in an existing block.
        clear-flag|auto-repair) cell $row full 0 new full/m write $row full/m ;;
        *) cell $row full 74 kept full/m write $row full/m ;;
    esac
done
rm -f full/*; echo yesterday >full/text
dd if=/dev/zero of=full/rest bs=4k status=none 2>/dev/null || :
cell dump full 74 kept full/text thin_dump -o full/text m0
[ "$(ls -A full)" = "$(printf 'rest\ntext')" ] || fail "something is left: $(ls -A full)"
cell dump full-new 74 - x thin_dump -o full/new m0
row=restore; renew m
cell restore temporary-full 73 kept m sh -c 'cat other.xml | TMPDIR=/tmp/full thin_restore -i /proc/self/fd/0 -o m'
umount full

# An error halfway, on the input and on the output.
echo yesterday >text2
cell dump half-way 64 kept text2 thin_dump -o text2 damaged
cell dump no-snapshot 64 kept text2 thin_dump -m -o text2 m0
cell dump file-limit 74 kept text2 bash -c 'ulimit -f 0; thin_dump -o text2 m0'
row=restore; renew m
cell restore half-way 64 kept m thin_restore -i late.xml -o m
cell restore half-way-pipe 64 kept m sh -c 'cat late.xml | thin_restore -i /proc/self/fd/0 -o m'
for row in restore create-thin; do
    renew m
    cell $row file-limit 74 kept m bash -c 'ulimit -f 8; "$@"' - \
        "$tools/$([ $row = restore ] && echo thin_restore || echo dmthin)" \
        $([ $row = restore ] && echo -i other.xml -o m || echo pool create-thin m 77)
done

# A device whose writes and flushes fail, behind its first blocks or at the superblock alone, while
# reads succeed.
for column in write-error superblock-error; do
    for row in restore $rows; do
        case $row in
            format) dd if=/dev/zero of=/dev/ubdc bs=64k count=64 status=none ;;
            create-thin) dd if=m0 of=/dev/ubdc bs=64k status=none ;;
            *) dd if=flagged of=/dev/ubdc bs=64k status=none ;;
        esac
        case $column in
            write-error) printf '0 64 linear /dev/ubdc 0\n64 8128 flakey /dev/ubdc 64 0 1000 1 error_writes\n' ;;
            superblock-error) printf '0 8 flakey /dev/ubdc 0 0 1000 1 error_writes\n8 8184 linear /dev/ubdc 8\n' ;;
        esac | must dmsetup create broken
        kept=kept; [ $row != format ] || kept=-
        cell $row $column 74 $kept /dev/mapper/broken write $row /dev/mapper/broken
        # A new pool without its superblock is not a pool, whatever else was written.
        [ $row != format ] || cmp -n 4096 /dev/ubdc /dev/zero || fail "a superblock was written"
        must dmsetup remove broken
    done
done

# There is not enough room for both files: the old one is overwritten with a warning, or the tool
# refuses.
thin_restore -q -i one.xml -o m0 || fail "restore"
truncate -s 0 small; truncate -s 56K small
must thin_restore -q -i one.xml -o small
cell restore keep-old 73 kept small thin_restore --keep-old -i other.xml -o small
cell restore give-up 0 new small write restore small
grep -q 'given up' said || fail "no line before the old metadata is given up: $(cat said)"

printf '%s' "$table" | awk -F'|' '{
    if (!($1 in rows)) { rows[$1]; order[++n] = $1 } if (!($2 in columns)) { columns[$2]; across[++k] = $2 }
    cells[$1, $2] = $3 }
    END { for (j = 1; j <= k; j++) { line = across[j] ":"; for (i = 1; i <= n; i++)
        if ((order[i], across[j]) in cells) line = line "  " order[i] " " cells[order[i], across[j]] ";"
        print line } }'
say "$(printf '%s' "$table" | grep -c .) cells are as expected"
