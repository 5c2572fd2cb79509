#!/bin/bash
# Runs the real tests in a Debian with systemd, each daemon as a unit in the sandbox of vapord.service:
# what the sandbox denies must not be needed.
#
#   tests/lab/under_unit.sh [RELEASE [BINARY...] [-- WORD...]]
#
# trixie and every real test, if not said otherwise; the words go to the test binaries. With an empty
# VAPOR_TEST_UNIT the daemons run without the sandbox, to see what fails for another reason: libvirt 9.0
# (bookworm) tells of fewer changes. Nothing is skipped: a test that lacks something fails.
#
# The tests are built here, and run with that release's libvirt and QEMU, one at a time. Those that bring
# a system of their own, in which the package's own unit runs (real_package, real_host), or no daemon
# (real_libvirt) are left out. Prints each binary's summary; fails if one did. Root, as container.sh.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
lab=${VAPOR_LAB:-$root/target/lab}
release=${1:-trixie}
shift || true

"$here/guest/build.sh" >/dev/null
"$here/secureboot/build.sh" >/dev/null
"$here/cloud/build.sh" >/dev/null
built=$(cd "$root" && cargo test --locked --no-run --tests --message-format=json 2>/dev/null |
    sed -n 's/.*"kind":\["test"\].*"name":"\([a-z_]*\)".*"executable":"\([^"]*\)".*/\1 \2/p')
wanted=() words=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    wanted+=("$1")
    shift
done
[ $# = 0 ] || { shift; words=("$@"); }
unit=${VAPOR_TEST_UNIT-1}
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(awk '{ print $1 }' <<<"$built" |
    grep -E '^(real_|chaos)' | grep -vxE 'real_(package|host|libvirt)')

container=$(mktemp -d /tmp/vapor-container-unit.XXXXXX)
rmdir "$container"
trap '"$here/container.sh" stop "$container"' EXIT
inside() { "$here/container.sh" run "$container" "$1"; }
"$here/container.sh" start "$container" "$release" "$root"
# The guests as they were built here: newer than what the container has, so that nothing is built there.
tar -C "$lab" -cf "$container/guest.tar" guest secureboot cloud venv
"$here/container.sh" put "$container" "$container/guest.tar" /srv/lab
# The stock clients are packages for the Python that is here, which need not be the container's.
python=$(readlink -f "$lab/venv/bin/python")
tar -C / -cf "$container/python.tar" "${python#/}" "usr/lib/${python##*/}"
"$here/container.sh" put "$container" "$container/python.tar" /srv
# A /tmp in memory is no place for volumes, and is mounted over what lies there by the first unit with a private
# one.
inside "systemctl -q mask --now tmp.mount; ! mountpoint -q /tmp || umount /tmp; mkdir -p /srv/tmp"
inside "tar -C / --skip-old-files -xpf /srv/python.tar && rm /srv/python.tar
    tar -C /srv/lab -xpf /srv/lab/guest.tar && rm /srv/lab/guest.tar && ln -sf $python /srv/lab/venv/bin/python3
    touch /srv/lab/guest/stamp /srv/lab/secureboot/secureboot.img /srv/lab/cloud/stamp
    # What it would build is there.
    [ -e /usr/sbin/debootstrap ] || ln -s /bin/false /usr/sbin/debootstrap
    [ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
    for number in {0..31}; do [ -e /dev/loop\$number ] || mknod /dev/loop\$number b 7 \$number; done
    install -D -m 644 '$root/packaging/sysusers.d/vapor.conf' /etc/sysusers.d/vapor.conf && systemd-sysusers"

status=0
for name in "${wanted[@]}"; do
    binary=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$built")
    [ -n "$binary" ] || { echo "under_unit.sh: no test binary $name" >&2; exit 64; }
    printf '== %s\n' "$name"
    inside "cd '$root' && ${unit:+VAPOR_TEST_UNIT=1} VAPOR_TEST_NO_SKIP=1 VAPOR_LAB=/srv/lab TMPDIR=/srv/tmp \
        '$binary' --test-threads=1 ${words[*]@Q} 2>&1" || {
        status=1
        printf -- '--- what systemd complained of\n'
        inside "journalctl --no-pager -q -p err -n 40"
    }
done
exit $status
