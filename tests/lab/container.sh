#!/bin/bash
# A Debian (or an Ubuntu) with systemd as process 1, in a container: for the package, its units and its user.
#
#   tests/lab/container.sh build RELEASE          the tree it boots from, bookworm or trixie, or Ubuntu's jammy
#                                                 or noble, which no test needs; once
#   tests/lab/container.sh start DIR [RELEASE [FOLDER...]]    boot one (bookworm), which sees these
#                                                 folders; returns when units are started
#   tests/lab/container.sh run DIR COMMAND        root's shell in it runs this line; its exit status
#   tests/lab/container.sh put DIR FILE... FOLDER copies files into a folder of it, which is made
#   tests/lab/container.sh status DIR             exit 0 running, 4 not there
#   tests/lab/container.sh stop DIR               end it with all that runs in it, remove DIR
#   tests/lab/container.sh stop-all               the same for every one of this checkout
#   tests/lab/container.sh clean                  the same, and remove the trees, which are root's
#
# DIR is the script's own: absent or empty at the first start, gone after stop. The container has its
# own network and reaches nothing outside; what it writes goes to a layer in DIR. libvirt and QEMU are
# those of its release. Needs root. README.md beside this file has the whole contract.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${VAPOR_LAB:-$(cd "$here/../.." && pwd)/target/lab}
trees=$lab/trees
instances=$lab/containers
# An idle machine needs some seconds.
patience=240

die() {
    echo "container.sh: $1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

if [ "$(id -u)" != 0 ] && [ "${1:-help}" != help ]; then
    exec sudo -n VAPOR_LAB="$lab" VAPOR_LAB_KEEP="${VAPOR_LAB_KEEP:-}" bash "$0" "$@"
fi

# --- the trees --------------------------------------------------------------------------------------

# Raised when what is in a tree changes, so that older ones are made anew.
recipe=5

build() { # release
    local release=$1 tree=$trees/$1
    case $release in bookworm | trixie | jammy | noble) ;; *) die "not a release that is known here: $release" 64 ;; esac
    mkdir -p "$trees"
    exec 9>"$trees/$release.lock"
    flock 9
    [ "$(cat "$tree/.recipe" 2>/dev/null)" != $recipe ] || return 0
    rm -rf "$tree" "$tree.new"
    (
        # shellcheck source=debian.sh
        . "$here/debian.sh"
        # Of that release and with its own libvirt and QEMU, whatever this machine has.
        entry=$(debian_entry)
        debian_entry() { echo "$entry"; }
        debian_codename() { echo "$release"; }
        debian_suite() { :; }
        case $release in
            jammy | noble)
                # Debian has Ubuntu's key, and knows how its releases are made if not all of their names.
                mkdir -p "$lab/debs/$release"
                fetch_debs "$lab/debs/$release" ubuntu-keyring
                dpkg -x "$lab/debs/$release"/ubuntu-keyring_*.deb "$lab/debs/$release/keys"
                key_of() { echo "$lab/debs/$release/keys/usr/share/keyrings/ubuntu-archive-keyring.gpg"; }
                debian_entry() { echo 'http://archive.ubuntu.com/ubuntu -'; }
                debian_components() { echo main universe; }
                debian_script() { echo /usr/share/debootstrap/scripts/jammy; }
                ;;
        esac
        debian_tree "$tree.new" "$lab/debs/$release" systemd systemd-sysv dbus udev -- \
            polkitd libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils \
            iproute2 procps curl dnsmasq-base e2fsprogs nftables iptables genisoimage busybox-static '?virtiofsd' \
            ovmf swtpm swtpm-tools mtools osinfo-db python3-minimal
    )
    # What the container's boundaries do not allow, and a test does not need.
    printf '%s\n' 'cgroup_controllers = [ ]' 'security_driver = "none"' >>"$tree.new/etc/libvirt/qemu.conf"
    ln -sf /dev/null "$tree.new/etc/systemd/system/systemd-resolved.service"
    printf 'vapor-container\n' >"$tree.new/etc/hostname"
    printf '127.0.0.1 localhost vapor-container\n::1 localhost\n' >"$tree.new/etc/hosts"
    # Without one the first boot would be a first boot, which enables every unit there is.
    tr -d - </proc/sys/kernel/random/uuid >"$tree.new/etc/machine-id"
    echo $recipe >"$tree.new/.recipe"
    mv "$tree.new" "$tree"
    # What root left among a sudo user's files is the user's; the tree itself must be root's.
    [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$lab/debs" || true
}

# --- one container -----------------------------------------------------------------------------------

# Only the recorded process, and only while it is the one that was started for this DIR.
nspawn() {
    local pid
    pid=$(cat "$dir/nspawn.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "--directory=$dir/root " || return 1
    echo "$pid"
}

# Process 1 of the container.
leader() {
    local pid child children
    pid=$(nspawn) || return 1
    read -ra children 2>/dev/null <"/proc/$pid/task/$pid/children" || true
    for child in "${children[@]}"; do
        [ "$(cat "/proc/$child/comm" 2>/dev/null)" = systemd ] || continue
        echo "$child"
        return 0
    done
    return 1
}

enter() { # command
    local pid
    pid=$(leader) || die "no container in $dir" 4
    nsenter -t "$pid" -m -u -i -n -p -C -r -w -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

# A place of its own in the trees of cgroups that systemd uses: two that share one would end each
# other's processes.
cgroups() {
    local tree
    for tree in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        [ ! -w "$tree/cgroup.procs" ] || echo "$tree/$(basename "$dir")"
    done
}

# The first process of the mount namespace in which the layers are laid over each other: they go with it.
__boot() { # folder...
    local group folder binds=()
    for folder; do binds+=("--bind-ro=$folder"); done
    mount -t overlay overlay -o "lowerdir=$tree,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
    for group in $(cgroups); do
        mkdir -p "$group"
        echo $$ >"$group/cgroup.procs"
    done
    echo $$ >"$dir/nspawn.pid"
    exec systemd-nspawn --quiet --directory="$dir/root" --machine="$(basename "$dir" | tr -c 'a-zA-Z0-9\n' -)" \
        --register=no --keep-unit --boot --capability=all --private-network --bind=/dev/net/tun "${binds[@]}" \
        --link-journal=no --resolv-conf=off --timezone=off --console=pipe
}

start() { # release, folder...
    local release=${1:-bookworm} begun=$SECONDS state
    [ $# = 0 ] || shift
    ! nspawn >/dev/null || die "$dir runs already"
    [ ! -e "$dir" ] || [ -z "$(ls -A "$dir")" ] || die "$dir has other things in it" 65
    build "$release"
    mkdir -p "$instances" "$dir"/{upper,work,root}
    touch "$dir/.vapor-container"
    ln -sfn "$dir" "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
    setsid unshare -m --propagation private bash "$0" __boot "$dir" "$trees/$release" "$@" \
        </dev/null >"$dir/console.log" 2>&1 9>&- &
    local pid=$!
    until leader >/dev/null && state=$(enter systemctl is-system-running 2>/dev/null; true) &&
        [[ $state = running || $state = degraded ]]; do
        [ -d "/proc/$pid" ] || die "it does not boot: $(tail -n 20 "$dir/console.log")"
        [ $((SECONDS - begun)) -lt $patience ] || die "not up after $patience s: $(tail -n 20 "$dir/console.log")"
        sleep 0.2
    done
}

stop() {
    local pid tries group
    if pid=$(nspawn); then
        # Nothing in it is worth an orderly end; with its first process all others go.
        kill -KILL "$(leader)" "$pid" 2>/dev/null || true
        for ((tries = 0; tries < 1500; tries++)); do
            [ -d "/proc/$pid" ] || break
            ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null || break
            sleep 0.02
        done
        ! nspawn >/dev/null || die "the container in $dir does not end"
    fi
    for group in $(cgroups); do
        # Its last processes may still be on their way out.
        for ((tries = 0; tries < 500; tries++)); do
            [ -d "$group" ] || break
            find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
            sleep 0.02
        done
    done
    rm -f "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
    if [ -n "${VAPOR_LAB_KEEP:-}" ]; then
        echo "kept: $dir" >&2
    elif [ -e "$dir/.vapor-container" ]; then
        rm -rf "$dir"
    fi
}

command=${1:-help}
case $command in
    help | -h | --help) usage; exit 0 ;;
    build) build "${2:-bookworm}"; exit 0 ;;
    stop-all | clean)
        for link in "$instances"/*; do
            [ -L "$link" ] || continue
            bash "$0" stop "$(readlink "$link")"
        done
        [ "$command" != clean ] || rm -rf "$trees" "$instances"
        exit 0
        ;;
esac
[ -n "${2:-}" ] || { usage >&2; exit 64; }
dir=$(realpath -m "$2")
case $dir in *[!A-Za-z0-9/._+-]*) die "the path has characters that would need escaping: $dir" 65 ;; esac
shift 2
case $command in
    __boot) tree=$1; shift; __boot "$@" ;;
    start) start "$@" ;;
    run) enter bash -c "${1:?a command}" ;;
    put)
        folder=${!#}
        # shellcheck disable=SC2016 # expanded by the shell in it
        tar -c --owner=0 --group=0 --transform='s#.*/##' -P -- "${@:1:$#-1}" |
            enter bash -c 'mkdir -p "$1" && tar -x -C "$1"' bash "$folder"
        ;;
    status)
        nspawn >/dev/null || { echo 'not there'; exit 4; }
        echo 'running'
        ;;
    stop) stop ;;
    *) usage >&2; exit 64 ;;
esac
