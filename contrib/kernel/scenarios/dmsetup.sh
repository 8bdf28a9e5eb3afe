#!/bin/sh
# dmthin answers dmsetup's calls like dmsetup: output, error lines, statuses, and the resulting
# devices.
#
# usage: contrib/kernel/run scenarios/dmsetup.sh DISK DISK [-- PART...]
#
#   DISK  images of zeros of 64 MiB
#   PART  of names_and_tables, showing, trees, changing, paths, concise, types, pool, stored, udev,
#         environment; without any, all
#
# DMTHIN_TOOLS names the directory of dmthin. The same calls are made twice on fresh devices: with
# the system's dmsetup, and with dmthin through a link of that name. Their outputs are compared,
# except for the wording of summaries and of lists of fields. DMTHIN_KEEP, if set, is a directory
# for the two logs.
. "$DMTHIN_RIG/lib.sh"

tools=${DMTHIN_TOOLS:?names the directory of dmthin}
real=$(command -v dmsetup)
work=/tmp/dmsetup
mkdir -p $work/theirs $work/ours
ln -sf "$real" $work/theirs/dmsetup
ln -sf "$tools/dmthin" $work/ours/dmsetup

# Starting a process takes long here, so a call starts no other process: its output goes to two
# files, which are joined when all calls are done.
d() { # ARGUMENT...
    calls_made=$((calls_made + 1))
    echo "$calls_made \$ dmsetup $*" >&3
    echo "$calls_made \$ dmsetup $*" >&4
    if "$program" "$@" >&3 2>&4 <"$input"; then :; else echo "[$?]" >&3; fi
}
# The text after a summary or a list of fields differs between programs; cookies and times change
# each time, and how many intervals were missed depends on how busy the machine is.
protocol() { # FILE
    sed -e '/^Usage:/,/^\(\[\|[0-9]* \$\)/{/^\[/b;/^[0-9]* \$/b;d}' -e '/^Mapped Device Name Fields/,/^  ?  /d' \
        -e '/^Fields:/,/^$/d' -e '/^WARNING: Try increasing --interval/d' -e '/^ $/d' \
        -e 's/0x0*[dD]4[dD][0-9a-fA-F]\{4\}/COOKIE/g' \
        -e 's/\(COOKIE *\)[0-9]* /\1SET /' -e 's/value 223[0-9]\{6\}/value COOKIE/' \
        -e 's/[A-Z][a-z][a-z] [A-Z][a-z][a-z] [ 0-9][0-9] [0-9:]\{8\} 20[0-9][0-9]/TIME/g' "$1"
}
from() { input=$work/in; cat >$input; "$@"; input=/dev/null; }     # the call reads the standard input

names_and_tables() {
    d create t0 --table '0 8 zero'
    d create t1 -u u-1 --table '0 8 linear /dev/ubda 0
8 8 zero

# a comment
  16 8 error  '
    d table t1
    d create --readonly t2 --table '0 8 linear /dev/ubda 8'
    d create 'a b' -n
    d create --notable 'a\x20c'
    d create 'a\x20 d' -n
    d create 'x!*%y' -n -u 'u !'
    d info -c
    d info 'x!*%y'
    d info -u 'u !'
    d --manglename none info 'a b'
    d --manglename none info 'a\x20b'
    d --manglename hex info 'a\x20b'
    d --manglename hex info 'a b'
    d --manglename none ls
    d info -c -o name,mangled_name,unmangled_name,uuid,mangled_uuid,unmangled_uuid
    d info --manglename foo t0
    d create a/b -n
    d create "$(printf 'a%.0s' $(seq 127))" -n
    d create "$(printf 'b%.0s' $(seq 128))" -n
    d remove "$(printf 'a%.0s' $(seq 127))"
    d create longuuid -n -u "$(printf 'a%.0s' $(seq 140))"
    d create emptyuuid -n -u ''
    d create mixeduuid -n -u 'a\x20 b'
    d create t0 --table '0 8 zero'
    d create other -u u-1 -n
    d create x --table 'a b zero'
    d create x --table '0 8'
    d create x --table '0 8 zero
0 8'
    d create x --table '0x10 8 zero'
    d create x --table '-1 8 zero'
    d create x --table '99999999999999999999 8 zero'
    d create x --table '0 8 nosuch'
    d create x --table '8 8 zero'
    d create x --table '0 0 zero'
    d create x --table '0 8 zero 1'
    d create x --table '0 8 zero#foo'
    d create x --table '0 8 zero
4 8 zero'
    d create x --table '0 8 zero
9 8 zero'
    d create x --table ''
    d table x
    d status x
    d remove x
    from d create fromstdin <<T
0 8 zero
8 8 error
T
    from d create bad <<T
bogus
T
    echo '0 8 zero' >$work/table
    d create fromfile $work/table
    d create nofile $work/nonexistent
    echo 'bogus x' >>$work/table
    d load fromfile $work/table
    d create byoption --table '0 8 zero' $work/table
    d create --notable --table '0 8 zero' x
    d create
    d create a b c
    d create numbered -j 254 -m 77 -n
    d create taken -j 254 -m 77 -n
    d create halfnumbered -m 78 -n
    d info -j 254 -m 77
    d info -j 254 -m 78
    d remove -j 254 -m 77
    d remove numbered
    d create r1 --readahead 512 --table '0 8 zero'
    d create r2 --readahead +512 --table '0 8 zero'
    d create r3 --readahead none --table '0 8 zero'
    d create r4 --readahead -1 --table '0 8 zero'
    d create r5 --readahead -2 --table '0 8 zero'
    d info -c -o read_ahead,name r1 r2 r3 r4
    d create n1 --addnodeoncreate --notable
    d create n2 --addnodeonresume --notable
    d create n3 --addnodeonresume --addnodeoncreate --notable
    d create n4 --uid 1 --gid 2 --mode 640 --table '0 8 zero'
    d create n5 --mode 999 --notable
    nodes
    d create verify --verifyudev --noudevsync --noudevrules --checks -y --table '0 8 zero'
    d create v1 -v --table '0 8 zero'
    d create v2 -v --notable
}

nodes() { # [FOLDER]
    stat -c '%A %U %G %t:%T %n' "${1:-/dev/mapper}"/* >&3
}

showing() {
    d create t0 --table '0 8 zero'
    d create t1 -u u-1 --table '0 8 linear /dev/ubda 0
8 8 zero'
    d create t2 -u LVM-abc --table '0 4 linear /dev/mapper/t1 0'
    d create vg-lv--x-tpool -u LVM-xyz --table '0 4 linear /dev/mapper/t1 4
4 1 linear /dev/ubdb 0'
    d create empty -n
    d load t0 -r --table '0 16 error'
    d suspend t0
    for verb in info table status deps; do
        d $verb
        d $verb t1
        d $verb t1 t2
        d $verb t1 nope t0
        d $verb nope
        d $verb -u u-1
        d $verb -u nope
        d $verb -j 254 -m 1
        d $verb -j 254 -m 99
        d $verb --inactive t0
        d $verb --inactive t1
        d $verb --inactive
        d $verb --noflush t1
        d -v $verb t1
        d $verb empty
    done
    d -v table
    d -v status t0 t1
    d info t0 t0
    d info --noopencount t2
    d --readonly info t0
    d status --target zero
    d status --target zero t1
    d status --target zero t1 t2
    d table --target linear
    d table --target nosuch
    d table --target nosuch t1
    d table --concise
    d table --concise t1
    d table --concise t1 empty
    d table --concise --target zero
    d table --concise nope
    d table --showkeys t1
    d ls
    d ls --target linear
    d ls --target nosuch
    d ls --target zero -o devname
    d ls -o devno
    d ls -o devname
    d ls -o blkdevname
    d ls -o bogus
    d ls --exec 'echo a  b'
    d ls --exec /nonexistent
    d ls --target zero --exec echo
    d ls t0
    d ls --tree
    d ls --tree -o ascii
    d ls --tree -o inverted
    d ls --tree -o ascii,inverted,nodevice
    d ls --tree -o ascii,nodevice
    d ls --tree -o blkdevname
    d ls --tree -o uuid,rw,active,open
    d ls --tree -o bogus
    d deps -o devname
    d deps -o blkdevname t2
    d deps -o bogus
    d info -c
    d info -C t1
    d --columns info t0 t1
    d info -c nope
    d info -c t0 nope t1
    d info -c -u u-1
    d info -c --inactive t0
    d info -c --noheadings
    d info -c --noheadings -o name
    d info -c --noheadings --separator , -o name,open
    d info -c --separator ,
    d info -c -o name,attr --separator ''
    d info -c -o name,uuid,tables_loaded,suspended,readonly,devno,read_ahead t0 t1 t2
    d info -c -o name,blkdevname t0 t1 t2
    d info -c -o name,blkdevname empty
    d info -c -o name,devs_used,devnos_used,blkdevs_used,device_ref_count,names_using_dev,devnos_using_dev,device_count t0 t1 t2
    d info -c -o name,subsystem,vg_name,lv_name,lv_layer
    d info -c -o NAME,Minor
    d info -c -o +devno
    d info -c -o name,bogus
    d info -c -O bogus
    d info -c -O -name
    d info -c -o name,minor --sort -minor,name --noheadings
    d info -c --nameprefixes
    d info -c --nameprefixes --noheadings t1
    d info -c --nameprefixes --noheadings --unquoted --separator ' ' -o name,uuid
    d info -c --rows
    d info -c --rows --noheadings -o name,minor
    d info -c -S name=t0
    d info -c -S 'name=t0 || uuid=u-1'
    d info -c -S 'name=~^t && segments>1'
    d info -c -S '!(name=t0),minor<=2'
    d info -c -S name=zzz
    d info -c -S bogus=1
    d info -c -o name,selected -S name=t0
    d info -c --count 2 --interval 1 -o name t0
    d info -o name
    d info -c -o
    d splitname vg-lv
    d splitname vg--a-lv--b-layer LVM
    d splitname vg-lv FOO
    d splitname vg-lv-x --noheadings
    d splitname vg-lv -o lv_name
    d splitname
    d targets
    d targets x
    d target-version zero thin-pool
    d target-version nosuch zero
    d version
    d --version
    d version x
    d info --foo
    d info --no t0
    d info --col t0
    d info --noflush=1 t0
    d info --uuid
    d suspend -x t0
    d nosuchverb
    d help
    d
}

changing() {
    d create t0 --table '0 8 zero'
    d create t1 -u u-1 --table '0 8 zero'
    d create t2 --table '0 8 linear /dev/mapper/t1 0'
    d suspend t0 t1
    d suspend -v t0
    d suspend --noflush --nolockfs t0
    d resume -v t0 t1
    d resume --noflush --nolockfs t0
    d suspend -u u-1
    d resume -u u-1
    d suspend t0 nope t1
    d info -c
    d resume t0
    for verb in suspend resume clear remove wipe_table; do
        d $verb
        d $verb nope
        d $verb -j 254 -m 99
    done
    d load t0 --table '0 16 error'
    d reload -v t0 --table '0 16 zero'
    d load -u u-1 --table '0 8 error'
    d load -u u-1 $work/nonexistent
    d load -j 254 -m 99 --table '0 8 zero'
    d load nope --table '0 8 zero'
    d load
    d load t0 a b
    d load t0 --table '0 8 nosuch'
    from d load t0 <<T
0 24 zero
T
    d load t0
    d info -c
    d resume t0
    d table t0
    d clear t0 t1
    d -v clear t0
    d load t0 -r --table '0 8 zero'
    d resume t0
    d info t0
    d rename t0 t1
    d rename t0 t9
    d rename -v t9 t0
    d rename t0
    d rename
    d rename t0 a/b
    d rename t0 ''
    d rename t0 'x y'
    d rename 'x y' t0
    d rename nope x
    d rename -u u-1 x
    d rename t0 --setuuid UU
    d rename t0 --setuuid UV
    d rename t0 --setuuid
    d info t0
    nodes
    d message t0 0 foo
    d message t0 x foo
    d message t0 0
    d message t0
    d message t0 99 a b
    d message nope 0 foo
    d message -u u-1 0 foo
    d message t0 0 @nosuch
    d message t0 0 ''
    d message t1 0 @cancel_deferred_remove
    d remove t1
    d remove --deferred t1
    d info t1
    d message t1 0 @cancel_deferred_remove
    d info t1
    d remove -f t1
    d table t1
    d wait t1 5
    d wait -v t1 5
    d wait -u u-1 5
    d wait nope
    d wait
    d wait a b c
    # An event comes from a rename.
    (sleep 1; "$program" rename t2 t3) &
    d wait t2
    wait
    # A removal ends a wait too.
    d create w --table '0 8 zero'
    (sleep 1; "$program" remove w) &
    d wait w
    wait
    d wipe_table t3
    d wipe_table -r t3
    d info t3
    d table t3
    d create empty -n
    d wipe_table empty
    d remove --force empty
    exec 9</dev/mapper/t3
    d remove --retry t3
    d remove --deferred t3
    d remove_all
    d ls
    exec 9<&-
    d ls
    d create a --table '0 8 zero'
    d create b --table '0 8 linear /dev/mapper/a 0'
    d create c --table '0 8 zero'
    d remove c nope b
    d ls
    exec 9</dev/mapper/a
    d remove_all
    d remove_all --force
    d table
    d remove_all --deferred
    exec 9<&-
    d remove_all x
    d mknodes
    d create a --table '0 8 zero'
    rm /dev/mapper/a
    : >/dev/mapper/stray
    d mknodes nope
    d mknodes a
    nodes
    rm /dev/mapper/a
    d mknodes
    nodes
    rm -f /dev/mapper/stray
    d remove a
    for verb in ls info status table deps 'ls --tree' 'info -c' 'table --concise'; do d $verb; done
}

concise() {
    d create --concise 'c1,,,,0 8 zero;c2,u2,,ro,0 8 linear /dev/ubda 0,8 8 error'
    d create --concise 'c1,,,,0 8 zero'
    d create --concise 'c3,,,xx,0 8 zero'
    d create --concise 'c3,,,'
    d create --concise 'c3,,9,rw,0 8 zero;'
    d create --concise 'c\,4,,,,0 8 zero'
    d create --concise 'c5\'
    d create --concise 'c6,,,,bogus'
    d create --concise 'c7,,,,0 8 zero;bad'
    d create --concise ''
    d create --concise ';'
    d create --concise 'a,,,,0 8 zero' b
    d create --concise 'a,,,,0 8 zero' -u x
    d create --concise 'c8,,20,rw'
    d create --concise -v 'c9,,,,0 8 zero'
    from d create --concise <<T
p1,,,,0 8 zero;p2,,,,0 8 zero
T
    d table --concise
    d info -c
}

# Tables of every type of this kernel, valid and invalid.
types() {
    local line n=0
    while read -r line; do
        d create "y$n" --table "$line"
        d table "y$n"
        d status "y$n"
        d deps "y$n"
        n=$((n + 1))
    done <<T
0 16 linear /dev/ubda 8
0 16 linear 98:0 8
0 16 linear /dev/nonexistent 8
0 16 linear 98:0
0 16 linear 98:0 x
0 16 linear 1:2:3 0
0 999999999 linear 98:0 0
0 24 striped 2 4 /dev/ubda 0 /dev/ubdb 16
0 24 striped 2 5 /dev/ubda 0 /dev/ubdb 16
0 24 striped 2 4 /dev/ubda 0
0 8 error some thing
0 8 delay /dev/ubda 0 5
0 8 delay /dev/ubda 0 5 /dev/ubdb 0 6
0 8 delay /dev/ubda 0
0 8 flakey /dev/ubda 0 1 0
0 8 flakey /dev/ubda 0 1 2 1 drop_writes
0 8 flakey /dev/ubda 0 1 2 5 corrupt_bio_byte 32 r 1 0
0 8 flakey /dev/ubda 0 0 0
0 8192 snapshot-origin /dev/ubda
0 8192 snapshot /dev/ubda /dev/ubdb P 8
0 8192 snapshot /dev/ubda /dev/ubda P 8
0 8192 snapshot /dev/ubda /dev/ubdb X 8
0 8 crypt aes-xts-plain64 00 0 /dev/ubda 0
T
}

# A device by the path of its node, as containerd passes it to remove, and by an empty name.
paths() {
    d create t0 --table '0 8 zero'
    d create 'a b' --table '0 8 zero'
    d table /dev/mapper/t0
    d table '/dev/mapper/a b'
    d table '/dev/mapper/a\x20b'
    d table /dev/mapper/nope
    d info /dev/mapper/nope
    d info /dev/ubda
    d info /dev/dm-0
    d deps /dev/nope/t0
    d suspend /dev/mapper/nope
    d rename /dev/mapper/t0 /dev/mapper/t1
    d info ''
    d info --columns --noheadings -o name,attr,major,minor --separator ' ' ''
    d table ''
    d status ''
    d remove ''
    d suspend ''
    d create '' -n
    d create '' --table '0 8 zero'
    d message '' 0 x
    d wait '' 3
    d remove --force --retry --deferred /dev/mapper/t1
    d remove --force --retry --deferred /dev/mapper/t0
    d remove --force /dev/mapper/nope
    d ls
}

# Trees that are deep, wide, and truncated at the edge of a terminal that does not exist.
trees() {
    local options n
    d ls --tree
    d create a --table '0 8 linear /dev/ubda 0
8 8 linear /dev/ubdb 0'
    d create bb -u u-b --table '0 8 linear /dev/mapper/a 0
8 8 linear /dev/ubdb 0'
    d create ccc --table '0 8 linear /dev/mapper/bb 0
8 8 linear /dev/mapper/a 0
16 8 linear /dev/ubdb 0'
    d create chain --table '0 8 linear /dev/mapper/ccc 0'
    d create chained --table '0 8 linear /dev/mapper/chain 0'
    d create top --table '0 8 linear /dev/mapper/chained 0
8 8 linear /dev/mapper/bb 0'
    for options in ascii utf vt100 notrunc ascii,inverted vt100,inverted ascii,uuid,active,open,rw,blkdevname; do
        d ls --tree -o $options
        d ls --tree -o compact,$options
    done
    for options in active open rw uuid blkdevname device notrunc,ascii notrunc,vt100 notrunc,utf,inverted; do
        d ls --tree -o compact,$options
    done
    for n in 60 70 71 72 73 74 75; do
        d create "$(printf 'n%.0s' $(seq $n))" --table '0 8 linear /dev/mapper/ccc 8'
    done
    for options in ascii utf vt100 ascii,notrunc ascii,open compact compact,ascii compact,vt100 compact,notrunc; do
        d ls --tree -o $options
    done
    d info -c -o name_all a
    d info -c -o info_all a
    d info -c -o deps_all a
    d info -c -o tree_all a
    d info -c -o splitname_all a
    d info -c -o name,deps_all,tree_all
}

# Names as they are stored, and queries of a device other than tables.
stored() {
    d mangle
    d create a --table '0 8 zero
8 8 linear /dev/ubda 0'
    d create b -u u-b --table '0 8 linear /dev/mapper/a 0'
    d create empty -n
    d --manglename none create 'x y\x20' -n
    d --manglename none create 'x\x20z' -n -u 'u v'
    d --manglename none create 'q w' -n -u 'u\x20w'
    d --manglename none create 'q r' -n -u 'u%w'
    d --manglename none create 's%t' -n
    d mangle
    d mangle a b
    d mangle nope
    d mangle -u nope
    d --manglename none info -c -o name,uuid
    d --manglename auto mangle 'x y\x20'
    d --manglename hex mangle 'x y\x20'
    d --manglename hex mangle
    d --manglename none create 'n e w' -n
    d --manglename hex mangle 'n e w'
    d --manglename none mangle 'n\x20e\x20w'
    d --manglename none mangle
    d --manglename none info -c -o name,uuid
    d measure
    d measure a
    d measure a b
    d measure nope
    d measure -u u-b
    d measure --target linear a
    d measure --target nosuch a
    d -v measure a
    d load a --table '0 8 error'
    d measure --inactive a
    d measure empty
    d setgeometry a 1 2 3 4
    d -v setgeometry a 1 2 3 4
    d setgeometry a 65535 255 255 1
    d setgeometry a 65535 256 255 1
    d setgeometry a 65536 1 1 1
    d setgeometry a 99999999999999999999 1 1 1
    d setgeometry a a b c d
    d setgeometry a 1x 2 3 4
    d setgeometry a '' 2 3 4
    d setgeometry a 1 2 3
    d setgeometry a 1 2 3 4 5
    d setgeometry -u u-b 1 2 3 4
    d setgeometry nope 1 2 3 4
    d setgeometry
}

# Cookies: without udev, and with a substitute of udev, in which this script handles the events.
udev() {
    local cookie
    d udevcookies
    d udevcookie
    d udevcreatecookie
    d udevcreatecookie x
    d udevreleasecookie
    d udevreleasecookie 1
    d udevreleasecookie 0xd4d1234
    d udevcomplete
    d udevcomplete 1
    d udevcomplete 0x00210d4d
    d udevcomplete 0
    d udevcomplete x
    d udevcomplete_all
    from d udevcomplete_all <<T
n
T
    from d udevcomplete_all 7 <<T
xyz
T
    d -y udevcomplete_all
    d -y udevcomplete_all 5
    d udevcomplete_all x
    for cookie in 0 x 1 017 0x1234567 0xffff0d4d 0x00210d4d 4294967295 4294967296; do d udevflags $cookie; done
    d udevflags
    unset DM_DISABLE_UDEV
    mkdir -p /run/udev
    : >/run/udev/control
    d udevcreatecookie
    cookie=$("$program" udevcreatecookie)
    d udevcookies
    d create w1 --udevcookie "$cookie" --table '0 8 zero'
    DM_UDEV_COOKIE=$cookie d create w2 --table '0 8 zero'
    d udevcookies
    d suspend --udevcookie "$cookie" w1
    d resume --udevcookie "$cookie" w1
    d rename --udevcookie "$cookie" w1 w3
    d remove --udevcookie "$cookie" w3
    d udevcookies
    for n in 1 2 3 4; do d udevcomplete "$cookie"; done
    d udevcookies
    # One event is left, which arrives during the wait.
    (sleep 1; "$program" udevcomplete "$cookie" >/dev/null) &
    DM_UDEV_COOKIE=$cookie d udevreleasecookie
    wait
    d udevcookies
    d udevreleasecookie "$cookie"
    d udevcomplete "$cookie"
    d udevcomplete 0
    d udevcomplete x
    d create w4 --udevcookie 0x1 --table '0 8 zero'
    d create w5 --noudevsync --table '0 8 zero'
    # Without a cookie a call makes one and waits; this script removes it.
    (sleep 1; "$program" -y udevcomplete_all >/dev/null) &
    d create w6 --table '0 8 zero'
    wait
    d ls
    d udevcookies
    d -y udevcomplete_all 5
    d udevcookies
    d -y udevcomplete_all
    d udevcookies
    nodes
    rm -r /run/udev
    export DM_DISABLE_UDEV=1
}

# The environment: the folder of nodes, the storage of names, the cookie for events.
environment() {
    local folder=/tmp/nodes long mode cookie
    rm -rf $folder
    export DM_DEV_DIR=$folder
    d version
    nodes $folder/mapper
    d create t0 --table '0 8 zero'
    d create t1 -u u-1 --table "0 8 linear $folder/mapper/t0 0"
    d create 'a b' --table '0 8 zero'
    d create t2 --mode 0644 --addnodeoncreate -n
    nodes $folder/mapper
    d info $folder/mapper/t0
    d table $folder/mapper/t1
    d table "$folder/mapper/a b"
    d info mapper/t0
    d info /dev/mapper/t0
    d info $folder/mapper/nope
    d deps -o devname t1
    d deps -o blkdevname t1
    d ls --exec echo
    d ls --tree -o ascii
    d info -c -o name,blkdevname,devnos_used,blkdevs_used
    rm $folder/mapper/t0
    : >$folder/mapper/stray
    d mknodes t0
    d mknodes
    nodes $folder/mapper
    rm -f $folder/mapper/stray
    d rename t0 t9
    d rename $folder/mapper/t9 t0
    d suspend t0
    d resume t0
    DM_DEV_DIR=$folder/ d ls --exec echo
    DM_DEV_DIR=$folder// d ls --exec echo
    DM_DEV_DIR=/tmp/other d mknodes
    nodes /tmp/other/mapper
    DM_DEV_DIR='' d create e --table '0 8 zero'
    nodes
    DM_DEV_DIR='' d remove e
    long=/$(printf 'n%.0s' $(seq 4200))
    for mode in nodes ./nodes "$long"; do
        DM_DEV_DIR=$mode d ls
        DM_DEV_DIR=$mode d nosuch
        DM_DEV_DIR=$mode d --nosuch
    done
    d remove t1 t0 'a b' t2
    nodes $folder/mapper
    unset DM_DEV_DIR
    for mode in none hex auto HEX None aUto nosuch ''; do
        DM_DEFAULT_NAME_MANGLING_MODE=$mode d create 'x y' -n -u 'u v'
        DM_DEFAULT_NAME_MANGLING_MODE=$mode d info -c -o name,uuid,mangled_name,unmangled_name
        DM_DEFAULT_NAME_MANGLING_MODE=$mode d --manglename NONE info -c -o name,uuid
        DM_DEFAULT_NAME_MANGLING_MODE=$mode d remove 'x y'
        d remove 'x y'
        d --manglename None remove 'x y'
    done
    d --manglename Nosuch ls
    for cookie in x '' 0 0x -1 4294967296 ' 0x1x'; do
        DM_UDEV_COOKIE=$cookie d create c --table '0 8 zero'
        DM_UDEV_COOKIE=$cookie d ls
        DM_UDEV_COOKIE=$cookie d udevreleasecookie
        d remove c
    done
    d create c --udevcookie x --table '0 8 zero'
    DM_UDEV_COOKIE=y d remove --udevcookie x c
    DM_UDEV_COOKIE=y d ls --udevcookie 0
    DM_UDEV_COOKIE=y d nosuch
    DM_UDEV_COOKIE=y d info a b --version
    DM_UDEV_COOKIE=y d message
    # With a substitute of udev: it makes the nodes in its folder; elsewhere the caller does.
    unset DM_DISABLE_UDEV
    mkdir -p /run/udev
    : >/run/udev/control
    cookie=$("$program" udevcreatecookie)
    DM_UDEV_COOKIE=$cookie d create w1 --table '0 8 zero'
    nodes
    DM_DEV_DIR=$folder DM_UDEV_COOKIE=$cookie d create w2 --table '0 8 zero'
    DM_DEV_DIR=$folder DM_UDEV_COOKIE=$cookie d create w3 --verifyudev --table '0 8 zero'
    nodes $folder/mapper
    DM_DEV_DIR=$folder DM_UDEV_COOKIE=$cookie d rename w3 w4
    DM_DEV_DIR=$folder d remove --noudevsync w4
    DM_DEV_DIR=$folder d remove --noudevsync --verifyudev w2
    nodes $folder/mapper
    d udevcookies
    d -y udevcomplete_all
    rm -r /run/udev
    export DM_DISABLE_UDEV=1
    d remove w1
    rm -rf $folder /tmp/other
}

# Valid and invalid messages of a pool, its tables, and its status afterwards.
pool() {
    local line
    dd if=/dev/zero of=/dev/ubda bs=4096 count=1 conv=fsync,notrunc status=none
    d create bad --table '0 65536 thin-pool /dev/ubda /dev/ubdb 100 0'
    d create bad --table '0 65536 thin-pool /dev/ubda /dev/ubdb 128 0 9 x'
    d create bad -r --table '0 65536 thin-pool /dev/ubda /dev/ubdb 128 0'
    d create pool --table '0 65536 thin-pool /dev/ubda /dev/ubdb 128 32768 1 skip_block_zeroing'
    d table pool
    d status pool
    while read -r line; do
        # shellcheck disable=SC2086  # words are arguments
        d message pool 0 $line
    done <<T
create_thin 0
create_thin 0
create_thin 16777215
create_thin 16777216
create_thin
create_thin 1 2
create_thin x
create_thin +1
create_thin 010
CREATE_THIN 2
create_snap 3 0
create_snap 3 0
create_snap 4 99
create_snap 4
delete 99
delete 3
delete x
delete
set_transaction_id 0 7
set_transaction_id 0 8
set_transaction_id 7
set_transaction_id x 1
set_transaction_id 7 18446744073709551615
set_transaction_id 18446744073709551615 18446744073709551616
reserve_metadata_snap
reserve_metadata_snap
reserve_metadata_snap x
release_metadata_snap
release_metadata_snap
nosuch
nosuch message
T
    d message pool 0 'create_thin 20'
    d message pool 0 create_thin\ 21
    d message pool 0 'create\_thin 22'
    d create v0 --table '0 8192 thin /dev/mapper/pool 0'
    d create v1 --table '0 8192 thin /dev/mapper/pool 1 /dev/loop0'
    d create v9 --table '0 8192 thin /dev/mapper/pool 99'
    d create v8 --table '0 8192 thin /dev/mapper/v0 1'
    d message v0 0 create_thin 5
    d message pool 0 delete 0
    d table
    d status
    d status --noflush pool
    d status --target thin
    d ls --tree
    d info
    d load pool --table '0 65536 thin-pool /dev/ubda /dev/ubdb 128 16 2 skip_block_zeroing error_if_no_space'
    d table --inactive pool
    d status --inactive pool
    d info -c --inactive pool
    d load pool --table '0 8 zero'
    d suspend pool
    d info pool
    d resume pool
    d table pool
    d status pool
    d remove pool
    d remove v0 pool
    d ls
}

[ $# -gt 0 ] || set -- names_and_tables showing trees changing paths concise types pool stored udev environment
for side in theirs ours; do
    export PATH="$work/$side:$PATH"
    for part; do
        input=/dev/null calls_made=0 program=dmsetup
        exec 3>"$work/$side/$part.out" 4>"$work/$side/$part.err"
        $part
        exec 3>&- 4>&-
        { protocol "$work/$side/$part.out"; echo "On the error output:"; protocol "$work/$side/$part.err"; } >"$work/$side/$part"
        must "$real" remove_all --force
        find /dev/mapper ! -name control -type b -delete
    done
done
[ -z "${DMTHIN_KEEP-}" ] || cp -r $work/theirs $work/ours "$DMTHIN_KEEP"

failed=0
for part; do
    count=$(grep -c ' \$ ' "$work/theirs/$part.out")
    if diff -U 3 "$work/theirs/$part" "$work/ours/$part" >$work/diff; then
        say "$part: $count calls, no difference"
    else
        failed=1
        say "$part: dmsetup (-) and dmthin (+) differ:"
        cat $work/diff
    fi
done
[ $failed -eq 0 ] || fail "dmthin is not dmsetup"
