#!/bin/bash
# Builds the virtual machine that tests use as a host of its own, and prints the directory it is in:
#
#   vmlinuz, initrd.img     Debian's kernel and a small initramfs that mounts the disk
#   root.img                a Debian of this machine's release with libvirt, QEMU, LXC and LVM
#   id_ed25519, known_hosts the way in, for ../hostvm.sh
#
# debootstrap makes the tree and mkfs.ext4 the disk from it; nothing is mounted outside a namespace
# of its own. A second call costs nothing until one of the inputs changes; what is there is replaced
# only by a whole new build. Downloaded packages are kept. --force builds anyway. Root, or a `sudo`
# that asks nothing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
debian=$root/tests/lab/debian.sh
lab=${VAPOR_LAB:-$root/target/lab}
out=$lab/hostvm
disk_size=4G

. "$root/tests/lab/debian.sh"

# The base system, and what must fit this machine's libvirt.
base=(systemd-sysv udev dbus kmod procps iproute2 nftables iptables openssh-server
    lvm2 parted e2fsprogs dosfstools busybox-static)
family=(polkitd libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-daemon-driver-lxc libvirt-clients
    qemu-system-x86 qemu-utils seabios ipxe-qemu dnsmasq-base
    # Newer releases have each kind of pool in a package of its own.
    '?libvirt-daemon-driver-storage-logical' '?libvirt-daemon-driver-storage-disk')
# What the initramfs needs to find its disk; udev loads the rest from there.
modules=(virtio_pci virtio_blk ext4)

say() { printf 'hostvm: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9 # two test runs may want it at the same time

complete() { # with the given stamp, or any
    local file
    for file in vmlinuz initrd.img root.img id_ed25519 known_hosts stamp; do
        [ -s "$out/$file" ] || return 1
    done
    [ "${1:-$(cat "$out/stamp")}" = "$(cat "$out/stamp")" ]
}

# Each test that needs it asks for it, so the usual answer must be quick.
if [ "${1:-}" != --force ] && complete &&
    [ -z "$(find "$here" "$debian" /bin/busybox -newer "$out/stamp" -print -quit)" ] &&
    [ -z "$(find /var/lib/apt/lists -maxdepth 0 -newer "$out/stamp")" ]; then
    echo "$out"
    exit 0
fi

# What the result depends on.
stamp=$({
    find "$here" -type f | LC_ALL=C sort | xargs sha256sum | sed "s#$here##"
    sha256sum <"$debian"
    sha256sum </bin/busybox
    version_of libvirt0
    for package in linux-image-cloud-amd64 libvirt-daemon-system qemu-system-x86 lvm2 systemd; do
        candidate $package
    done
} | sha256sum | cut -d' ' -f1)

if [ "${1:-}" != --force ] && complete "$stamp"; then
    touch "$out/stamp"
    echo "$out"
    exit 0
fi

if [ "$(id -u)" != 0 ]; then
    flock -u 9
    exec sudo -n VAPOR_LAB="$lab" http_proxy="${http_proxy:-}" bash "$0" "$@"
fi

started=$SECONDS
# What a killed build left is only in the way.
find "$out" -maxdepth 1 -name '.work.*' -exec rm -rf {} +
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
tree=$work/tree new=$work/new initramfs=$work/initramfs
mkdir "$new"

say 'making the Debian tree'
if ! debian_tree "$tree" "$lab/debs/hostvm" "${base[@]}" -- "${family[@]}" >"$work/log" 2>&1; then
    tail -n 40 "$work/log" "$tree/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    say 'the tree could not be made'
    exit 70
fi
release=$(unpack_kernel "$tree")
say "packing, with $release, after $((SECONDS - started)) s"
mv "$tree/boot/vmlinuz-$release" "$new/vmlinuz"
chmod 644 "$new/vmlinuz"

# Nothing reads these here, and they are half of the disk.
rm -rf "$tree"/usr/share/{doc,man,info,locale,lintian} "${tree:?}/boot"/*
cp -r --no-preserve=mode,ownership "$here/rootfs/." "$tree/"

# A fixed identity: a first boot would enable services according to presets.
tr -d - </proc/sys/kernel/random/uuid >"$tree/etc/machine-id"
echo hostvm >"$tree/etc/hostname"
printf '127.0.0.1 localhost hostvm\n' >"$tree/etc/hosts"

# Only what a test needs starts. libvirtd comes with its first client, by its sockets.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer getty@tty1.service \
    serial-getty@ttyS0.service console-getty.service systemd-timesyncd.service \
    systemd-networkd.service systemd-resolved.service networking.service ldconfig.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-hwdb-update.service \
    systemd-journal-flush.service systemd-pstore.service systemd-firstboot.service; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
systemctl --root="$tree" --quiet set-default multi-user.target
systemctl --root="$tree" --quiet disable libvirtd.service virtlogd.service libvirt-guests.service nftables.service dnsmasq.service 2>/dev/null || true
systemctl --root="$tree" --quiet enable libvirtd.socket libvirtd-ro.socket virtlogd.socket \
    hostvm-network.service hostvm-ready.service ssh.service

# The way in: made with each build, known to nobody else.
ssh-keygen -q -t ed25519 -N '' -C hostvm -f "$new/id_ed25519"
install -d -m 700 "$tree/root/.ssh"
install -m 600 "$new/id_ed25519.pub" "$tree/root/.ssh/authorized_keys"
rm -f "$tree"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C hostvm -f "$tree/etc/ssh/ssh_host_ed25519_key"
echo "hostvm $(cut -d' ' -f1,2 "$tree/etc/ssh/ssh_host_ed25519_key.pub")" >"$new/known_hosts"

mkdir -p "$initramfs"/{bin,dev,proc,sys,root}
cp /bin/busybox "$initramfs/bin/busybox"
cp "$here/initramfs/init" "$initramfs/init"
chmod 755 "$initramfs/init"
pack_modules "$tree" "$release" "$initramfs" "${modules[@]}"
pack_initramfs "$initramfs" "$new/initrd.img"

truncate -s "$disk_size" "$new/root.img"
# No journal: the disk is thrown away with its test.
mkfs.ext4 -q -L hostvm -O ^has_journal -m 0 -d "$tree" "$new/root.img"

mv "$new"/* "$out/"
echo "$stamp" >"$out/stamp"
[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$out" "$lab/debs"
say "built in $((SECONDS - started)) s: $(cd "$out" && du -h vmlinuz initrd.img root.img | tr '\t\n' '  ')"
echo "$out"
