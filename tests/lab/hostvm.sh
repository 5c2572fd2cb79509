#!/bin/bash
# A virtual machine that is a host of its own: a Debian with systemd, cgroup v2, libvirt, QEMU and LVM
# in software emulation, for what the machine under the tests lacks or must not have touched.
#
#   tests/lab/hostvm.sh start DIR [OPTION...] [-- QEMU-OPTION...]   boot it; returns when it answers
#       --disk NAME=SIZE    a further empty SCSI disk, /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_NAME
#       --append WORDS      further words for the kernel's command line
#       --memory MIB        3072 unless told
#       --cpus N            1 unless told: with two, QEMU's emulation loses an interrupt's end now and then
#   tests/lab/hostvm.sh run DIR COMMAND          root's shell in it runs this line; its exit status
#   tests/lab/hostvm.sh put DIR FILE... FOLDER   copies files into a folder of it, which is made
#   tests/lab/hostvm.sh forward DIR LOCAL REMOTE a Unix socket here leads to one in it
#   tests/lab/hostvm.sh reset DIR                as if its power had failed and come back
#   tests/lab/hostvm.sh status DIR               exit 0 running, 4 not there
#   tests/lab/hostvm.sh stop DIR                 end it, remove DIR
#   tests/lab/hostvm.sh stop-all                 the same for every one of this checkout
#
# DIR is the script's own: absent or empty at the first start, gone after stop. What the machine
# writes goes to an overlay in DIR. It reaches nothing outside. Needs no root once
# hostvm/build.sh has built it. README.md beside this file has the whole contract.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${VAPOR_LAB:-$(cd "$here/../.." && pwd)/target/lab}
instances=$lab/hostvms
# Software emulation on a busy machine; an idle one needs a tenth.
patience=600

die() {
    echo "hostvm.sh: $1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

# Only the recorded process, and only while it is the one that was started for this DIR.
qemu() {
    local pid
    pid=$(cat "$dir/qemu.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    grep -qzF "file=$dir/root.qcow2" "/proc/$pid/cmdline" 2>/dev/null || return 1
    echo "$pid"
}

# --- the way in ------------------------------------------------------------------------------------

way_in() { # further words for ssh
    ssh -F none -i "$lab/hostvm/id_ed25519" -o IdentitiesOnly=yes -o BatchMode=yes -o LogLevel=ERROR \
        -o UserKnownHostsFile="$lab/hostvm/known_hosts" -o HostKeyAlias=hostvm \
        -o StrictHostKeyChecking=yes -o ControlPath="$dir/ssh" -o StreamLocalBindUnlink=yes \
        -p "$(cat "$dir/port")" "$@"
}

# The port that QEMU chose to listen on here.
listening() {
    ss -Hltnp | sed -n "s/.* 127\.0\.0\.1:\([0-9]*\) .*[(,]pid=$1,.*/\1/p" | head -n 1
}

# --- the machine -----------------------------------------------------------------------------------

boot() {
    local pid port begun=$SECONDS
    rm -f "$dir/ready" "$dir/port" "$dir/ssh"
    setsid qemu-system-x86_64 "${options[@]}" </dev/null >"$dir/qemu.log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/qemu.pid"
    until grep -qs ready "$dir/ready"; do
        [ -d "/proc/$pid" ] || die "QEMU has ended: $(tail -n 5 "$dir/qemu.log")"
        [ $((SECONDS - begun)) -lt $patience ] ||
            die "not ready after $patience s: $(tail -n 20 "$dir/console.log")"
        sleep 0.2
    done
    port=$(listening "$pid")
    [ -n "$port" ] || die "QEMU $pid does not listen"
    echo "$port" >"$dir/port"
    # One connection for everything to come, in the background until the machine ends.
    way_in -M -N -f -o ControlPersist=no root@127.0.0.1 </dev/null >"$dir/ssh.log" 2>&1 ||
        die "no way in: $(cat "$dir/ssh.log")"
    echo "$((SECONDS - begun))" >"$dir/seconds"
}

start() {
    local memory=3072 cpus=1 append='' disk file disks=() options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --disk) disks+=("$2") ;;
            --append) append=$2 ;;
            --memory) memory=$2 ;;
            --cpus) cpus=$2 ;;
            --) shift; break ;;
            *) usage >&2; exit 64 ;;
        esac
        shift 2
    done
    ! qemu >/dev/null || die "$dir runs already"
    [ ${#dir} -le 80 ] || die "the path is too long for a Unix socket: $dir" 65
    [ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || die "$dir has other things in it" 65
    "$here/hostvm/build.sh" >/dev/null
    mkdir -p "$dir" "$instances"
    touch "$dir/.vapor-hostvm"
    ln -sfn "$dir" "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
    qemu-img create -q -f qcow2 -F raw -b "$(realpath "$lab/hostvm/root.img")" "$dir/root.qcow2"
    # shellcheck disable=SC2054 # the commas are QEMU's
    options=(-nodefaults -no-user-config -display none -M q35 -accel tcg,thread=multi -cpu max
        -smp "$cpus" -m "$memory"
        -kernel "$lab/hostvm/vmlinuz" -initrd "$lab/hostvm/initrd.img"
        -append "console=ttyS0 net.ifnames=0 mitigations=off quiet${append:+ $append}"
        # Before the machine's own devices: an IOMMU must be there first.
        "$@"
        -serial "file:$dir/console.log"
        -drive "if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,file=$dir/root.qcow2"
        -device virtio-blk-pci,drive=root
        -netdev "user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"
        -device virtio-net-pci,netdev=mgmt,mac=52:54:00:76:61:70,romfile=
        -device virtio-rng-pci
        -device virtio-serial-pci
        -chardev "file,id=ready,path=$dir/ready"
        -device virtserialport,chardev=ready,name=hostvm.ready
        -device virtio-scsi-pci,id=scsi)
    for disk in "${disks[@]}"; do
        file=$dir/${disk%%=*}.img
        truncate -s "${disk#*=}" "$file"
        options+=(-drive "if=none,id=disk-${disk%%=*},format=raw,cache=unsafe,discard=unmap,file=$file"
            -device "scsi-hd,bus=scsi.0,drive=disk-${disk%%=*},device_id=${disk%%=*}")
    done
    printf '%s\0' "${options[@]}" >"$dir/options"
    boot
    echo "ready after $(cat "$dir/seconds") s"
}

end() {
    local pid tries
    pid=$(qemu) || return 0
    kill -KILL "$pid"
    for ((tries = 0; tries < 1500; tries++)); do
        # A zombie whose parent does not reap it is as good as gone.
        [ -d "/proc/$pid" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || return 0
        sleep 0.02
    done
    die "QEMU $pid does not end"
}

stop() {
    end
    rm -f "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
    if [ -n "${VAPOR_LAB_KEEP:-}" ]; then
        echo "kept: $dir" >&2
    elif [ -e "$dir/.vapor-hostvm" ]; then
        rm -rf "$dir"
    fi
}

command=${1:-help}
case $command in
    help | -h | --help) usage; exit 0 ;;
    stop-all)
        for link in "$instances"/*; do
            [ -L "$link" ] || continue
            bash "$0" stop "$(readlink "$link")"
        done
        exit 0
        ;;
esac
[ -n "${2:-}" ] || { usage >&2; exit 64; }
dir=$(realpath -m "$2")
case $dir in *[!A-Za-z0-9/._+-]*) die "the path has characters that would need escaping: $dir" 65 ;; esac
shift 2
case $command in
    start | status | stop) ;;
    *) qemu >/dev/null || die "no machine in $dir" 4 ;;
esac

case $command in
    start) start "$@" ;;
    run) way_in root@127.0.0.1 "${1:?a command}" ;;
    put)
        folder=${!#}
        tar -c --owner=0 --group=0 --transform='s#.*/##' -P -- "${@:1:$#-1}" |
            way_in root@127.0.0.1 "mkdir -p '$folder' && tar -x -m -C '$folder'"
        ;;
    forward) way_in -O forward -L "${1:?a path here}:${2:?a path there}" root@127.0.0.1 ;;
    reset)
        end
        mapfile -d '' -t options <"$dir/options"
        boot
        ;;
    status)
        qemu >/dev/null || { echo 'not there'; exit 4; }
        echo 'running'
        ;;
    stop) stop ;;
    *) usage >&2; exit 64 ;;
esac
