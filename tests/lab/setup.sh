#!/bin/bash
# Installs what building and testing Vapor needs and is missing: Debian packages and a Python venv.
#
#   tests/lab/setup.sh --build   only what `cargo build` needs
#   tests/lab/setup.sh --packages  also what making packages needs (make packages)
#   tests/lab/setup.sh --run     also what a libvirt host and the tiny guest need (make run)
#   tests/lab/setup.sh --all     also what the tests need (default)
#   tests/lab/setup.sh --bench   also the peers that only the bench measures itself against
#
# Debian 12 and 13, as root or through sudo. Safe to repeat: with everything in place it calls
# neither apt nor pip. Debian 12 gets its stock libvirt and QEMU, except where a qemu-utils or a
# libvirt0 from backports is installed already: the stock QEMU conflicts with those, so there the
# whole family comes from bookworm-backports, fetched from the archive the machine already uses.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
lab=${VAPOR_LAB:-$root/target/lab}
level=all

. "$root/tests/lab/debian.sh"

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

if [ $# -gt 1 ]; then
    echo "setup: one level at a time, not $*" >&2
    usage >&2
    exit 64
fi
peers=()
case ${1:---all} in
    --build) level=build ;;
    --packages) level=packages ;;
    --run) level=run ;;
    --all) level=all ;;
    --bench) level=all peers=(virtinst) ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 64 ;;
esac

say() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "setup: '$*' needs root, and there is no sudo" >&2
        exit 77
    fi
}

# Other people's package runs are waited for, and nothing may ask a question. What apt says is shown
# only if it fails.
apt() {
    local said status=0
    said=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=600 \
        -o APT::Get::Assume-Yes=true -o Dpkg::Use-Pty=0 "$@" </dev/null 2>&1) || status=$?
    [ $status = 0 ] || printf '%s\nsetup: apt-get %s failed\n' "$said" "$*" >&2
    return $status
}

if ! command -v dpkg-query >/dev/null; then
    echo 'setup: only Debian is known here; install by hand what this script lists' >&2
    exit 69
fi

missing() { # prints those of its arguments that are not installed
    local package
    for package; do
        [ -n "$(version_of "$package")" ] || printf '%s\n' "$package"
    done
}

suite=$(debian_suite)

# `common` never depends on the suite; `family` must come from one suite in one go, because its
# members ask for each other's exact version.
common=(gcc libc6-dev make pkg-config libsystemd-dev)
family=(libvirt-dev)
if [ $level = packages ] || [ $level = all ]; then
    common+=(binutils dpkg-dev rpm zstd)
fi
if [ $level = run ] || [ $level = all ]; then
    common+=(dbus dnsmasq-base nftables iptables iproute2 procps util-linux kmod cpio zstd xz-utils
        busybox-static genisoimage isolinux syslinux-common syslinux-utils curl ca-certificates python3)
    family+=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients
        qemu-system-x86 qemu-utils seabios ipxe-qemu)
fi
if [ $level = all ]; then
    common+=(osinfo-db shellcheck python3-venv swtpm swtpm-tools mtools binutils debootstrap e2fsprogs openssh-client)
    common+=(systemd-container lintian rpmlint)
    family+=(python3-libvirt ovmf libvirt-daemon-driver-lxc "${peers[@]}")
fi

# shellcheck disable=SC2016
has_suite() {
    grep -qx "$1" <<<"$(apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages')"
}

add_suite() {
    has_suite "$1" && return
    local uri source file=/etc/apt/sources.list.d/$1.sources
    read -r uri source < <(debian_entry)
    [ -n "${uri:-}" ] || { echo "setup: no apt source for $(debian_codename) to take $1 from" >&2; exit 69; }
    say "adding $file, because qemu-utils on this machine is from $1"
    {
        echo "# Written by Vapor's tests/lab/setup.sh: QEMU here is from backports already."
        echo 'Types: deb'
        echo "URIs: $uri"
        echo "Suites: $1"
        echo 'Components: main'
        echo "Signed-By: $(key_of "$source")"
    } | as_root tee "$file" >/dev/null
}

mapfile -t need_common < <(missing "${common[@]}")
mapfile -t need_family < <(missing "${family[@]}")

if [ $((${#need_common[@]} + ${#need_family[@]})) -gt 0 ]; then
    need="${need_common[*]} ${need_family[*]}"
    say "installing ${need# }${suite:+ (from $suite)}"
    [ -z "$suite" ] || add_suite "$suite"
    apt update
    if [ ${#need_common[@]} -gt 0 ]; then
        apt install --no-install-recommends "${need_common[@]}"
    fi
    if [ ${#need_family[@]} -gt 0 ]; then
        # All of the family is named, also what is there already: an older libvirt-dev must move along.
        apt install --no-install-recommends ${suite:+-t "$suite"} "${family[@]}"
    fi
fi

# A venv of Debian's Python: another python3 first in PATH neither helps nor harms.
if [ $level = all ]; then
    wanted=$root/tests/lab/requirements.txt
    venv=$lab/venv
    if ! cmp -s "$wanted" "$venv/installed.txt" || ! "$venv/bin/python" -c 'import schemathesis, tusclient' 2>/dev/null; then
        say 'making the Python venv for the API and upload tests'
        rm -rf "$venv"
        mkdir -p "$lab"
        /usr/bin/python3 -m venv "$venv"
        "$venv/bin/pip" install -q --no-input --disable-pip-version-check -r "$wanted"
        cp "$wanted" "$venv/installed.txt"
    fi
fi

say "ready ($level): libvirt $(version_of libvirt0)$(
    [ $level = build ] || [ $level = packages ] || printf ', QEMU %s' "$(version_of qemu-system-x86)"
)"
