#!/bin/bash
# Module of dracut: the tools of dmthin-tools in the initramfs, wherever a thin pool may be activated there.

# Whether a block device, MAJOR:MINOR, has a target of thin provisioning.
has_thin_target() {
    [[ -d /sys/dev/block/$1/dm ]] || return 1
    dmsetup table -j "${1%:*}" -m "${1#*:}" 2>/dev/null | grep -q -E '^[0-9]+ [0-9]+ thin(-pool)? '
}

check() {
    require_binaries thin-tools || return 1
    if [[ $hostonly ]] || [[ $mount_needs ]]; then
        for_each_host_dev_and_slaves has_thin_target || return 255
    fi
    return 0
}

depends() {
    echo dm
}

installkernel() {
    hostonly='' instmods dm-thin-pool
}

install() {
    inst_multiple thin-tools @TOOLS@
}
