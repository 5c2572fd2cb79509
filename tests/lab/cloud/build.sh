#!/bin/bash
# Builds a Debian with cloud-init, as cloud images are, and prints the directory it is in:
#
#   cloud-vmlinuz, cloud-initrd.img   for direct kernel boot
#   cloud.qcow2                       the root disk, to be cloned for each VM
#
# debootstrap makes the tree and mkfs.ext4 the disk from it; nothing is mounted outside a namespace
# of its own. All drivers are in the initramfs. A second call costs nothing until one of the inputs
# changes; what is there is replaced only by a whole new build. Downloaded packages are kept. --force
# builds anyway. Root, or a `sudo` that asks nothing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
debian=$root/tests/lab/debian.sh
lab=${VAPOR_LAB:-$root/target/lab}
out=$lab/cloud
disk_size=2G

. "$root/tests/lab/debian.sh"

base=(systemd udev iproute2)
# By apt: debootstrap does not know what only provides a package that is asked for.
packages=(qemu-guest-agent cloud-init)
# Of the release itself, whatever this machine's libvirt is from.
debian_suite() { :; }
# vfat and its tables read the seed; qemu_fw_cfg shows what Ignition would read.
modules=(virtio_pci virtio_blk ext4 virtio_net virtio_console virtio_rng virtio_balloon
    vfat nls_ascii nls_cp437 nls_utf8 isofs qemu_fw_cfg)

say() { printf 'cloud: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9 # two test runs may want it at the same time

complete() { # with the given stamp, or any
    local file
    for file in cloud-vmlinuz cloud-initrd.img cloud.qcow2 stamp; do
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
    for package in linux-image-cloud-amd64 cloud-init qemu-guest-agent systemd; do
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
if ! debian_tree "$tree" "$lab/debs/cloud" "${base[@]}" -- "${packages[@]}" >"$work/log" 2>&1; then
    tail -n 40 "$work/log" "$tree/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    say 'the tree could not be made'
    exit 70
fi
release=$(unpack_kernel "$tree")
say "packing, with $release, after $((SECONDS - started)) s"
mv "$tree/boot/vmlinuz-$release" "$new/cloud-vmlinuz"
chmod 644 "$new/cloud-vmlinuz"

mkdir -p "$initramfs"/{bin,dev,proc,sys,root}
cp /bin/busybox "$initramfs/bin/busybox"
cp "$here/initramfs/init" "$initramfs/init"
chmod 755 "$initramfs/init"
pack_modules "$tree" "$release" "$initramfs" "${modules[@]}"
pack_initramfs "$initramfs" "$new/cloud-initrd.img"

# Nothing reads these here. No modules: those that are needed are loaded before the root is there.
rm -rf "$tree"/usr/share/{doc,man,info,locale,lintian} "${tree:?}/boot"/* "$tree"/lib/modules/* \
    "$tree"/usr/lib/modules/* "$tree"/usr/lib/udev/hwdb.* "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
cp -r --no-preserve=mode,ownership "$here/rootfs/etc/." "$tree/etc/"

# No identity of its own: each clone gets one.
rm -f "$tree/etc/hostname" "$tree/etc/machine-id"
printf '127.0.0.1 localhost\n' >"$tree/etc/hosts"

# A service manager would take most of the time of a boot in emulation: $here/rootfs/sbin/init runs
# cloud-init's stages itself.
rm -f "$tree/usr/sbin/init"
cp "$here/rootfs/sbin/init" "$tree/usr/sbin/init"
chmod 755 "$tree/usr/sbin/init" "$tree/etc/udhcpc"
cp /bin/busybox "$tree/usr/bin/busybox"
# As the first start of each program would do, for every clone at once.
chroot "$tree" python3 -m compileall -q /usr/lib/python3 >/dev/null 2>&1 || true

truncate -s "$disk_size" "$work/root.img"
mkfs.ext4 -q -L cloud -O ^has_journal -m 0 -d "$tree" "$work/root.img"
qemu-img convert -f raw -O qcow2 "$work/root.img" "$new/cloud.qcow2"

mv "$new"/* "$out/"
echo "$stamp" >"$out/stamp"
[ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$out" "$lab/debs"
say "built in $((SECONDS - started)) s: $(cd "$out" && du -h cloud-vmlinuz cloud-initrd.img cloud.qcow2 | tr '\t\n' '  ')"
echo "$out"
