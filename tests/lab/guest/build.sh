#!/bin/bash
# Builds the tiny guest that tests and `make run` boot, and prints the directory it is in:
#
#   vmlinuz, initrd.img           for direct kernel boot (root is the initramfs, no disk is mounted)
#   tiny.iso, tiny.qcow2          the same, booting by itself from a CD or a BIOS disk
#   tiny-noacpi.iso, .qcow2       the same, deaf to ACPI and without a guest agent
#
# Kernel and guest agent are Debian packages, downloaded and unpacked, never installed here. A
# second call costs nothing until one of the inputs changes; what is there is replaced only by a
# whole new build. --force builds anyway.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
debian=$root/tests/lab/debian.sh
out=${VAPOR_LAB:-$root/target/lab}/guest
modules=(virtio_pci virtio_blk virtio_net virtio_console virtio_balloon virtio_rng virtio_scsi
    button evdev sr_mod qemu_fw_cfg virtiofs)

. "$root/tests/lab/debian.sh"

say() { printf 'guest: %s\n' "$*" >&2; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9 # two test runs may want the guest at the same time

complete() { # with the given stamp, or any
    local file
    for file in vmlinuz initrd.img tiny.iso tiny.qcow2 tiny-noacpi.iso tiny-noacpi.qcow2 stamp; do
        [ -s "$out/$file" ] || return 1
    done
    [ "${1:-$(cat "$out/stamp")}" = "$(cat "$out/stamp")" ]
}

# Each test that needs the guest asks for it, so the usual answer must be quick: nothing that the
# guest is made of has been touched since it was made.
if [ "${1:-}" != --force ] && complete &&
    [ -z "$(find "$here" "$debian" /bin/busybox -newer "$out/stamp" -print -quit)" ] &&
    [ -z "$(find /var/lib/apt/lists -maxdepth 0 -newer "$out/stamp")" ]; then
    echo "$out"
    exit 0
fi

# What the result depends on.
stamp=$({
    find "$here" -type f -not -name '*.md' | LC_ALL=C sort | xargs sha256sum | sed "s#$here##"
    candidate linux-image-cloud-amd64
    candidate qemu-guest-agent
    sha256sum <"$debian"
    sha256sum /bin/busybox
} | sha256sum | cut -d' ' -f1)

if [ "${1:-}" != --force ] && complete "$stamp"; then
    touch "$out/stamp"
    echo "$out"
    exit 0
fi

started=$SECONDS
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir "$work/debs" "$work/tree"

say 'fetching kernel and guest agent'
[ -n "$(candidate linux-image-cloud-amd64)" ] || refresh_lists
release=$(unpack_kernel "$work/tree")
fetch_debs "$work/debs" qemu-guest-agent
dpkg -x "$work/debs"/qemu-guest-agent_*.deb "$work/tree"

say "packing $release"
guest=$work/guest
mkdir -p "$guest"/{dev,proc,sys,run,tmp,root,etc,bin,sbin,modules,usr/bin,usr/sbin,lib64}
cp -a "$here/rootfs/." "$guest/"
cp /bin/busybox "$guest/bin/busybox"
"$guest/bin/busybox" --list | while read -r applet; do
    [ -e "$guest/bin/$applet" ] || ln -s busybox "$guest/bin/$applet"
done

pack_modules "$work/tree" "$release" "$guest" "${modules[@]}"

# The agent with every library it loads; the host is of the same release, so its libraries fit.
agent=$(find "$work/tree/usr" -name qemu-ga -type f)
cp "$agent" "$guest/bin/qemu-ga"
libraries=$(ldd "$agent")
if grep -q 'not found' <<<"$libraries"; then
    say "the guest agent needs libraries that this machine lacks:"
    grep 'not found' <<<"$libraries" >&2
    exit 69
fi
grep -o '/[^ ]*' <<<"$libraries" | while read -r library; do
    mkdir -p "$guest$(dirname "$library")"
    cp -L "$library" "$guest$library"
done

new=$work/new
mkdir "$new"
cp "$work/tree/boot/vmlinuz-$release" "$new/vmlinuz"
chmod 644 "$new/vmlinuz"
pack_initramfs "$guest" "$new/initrd.img"

# A CD that is a hard disk, too: the same bytes boot from either, so the disk is that CD in qcow2.
boot_image() { # name, extra kernel arguments
    local cd=$work/$1
    mkdir "$cd"
    ln "$new/vmlinuz" "$new/initrd.img" "$cd/"
    cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$cd/"
    printf '%s\n' 'SERIAL 0 115200' 'DEFAULT tiny' 'PROMPT 0' 'TIMEOUT 0' 'LABEL tiny' '  LINUX vmlinuz' \
        '  INITRD initrd.img' "  APPEND console=tty0 console=ttyS0 quiet $2" >"$cd/isolinux.cfg"
    genisoimage -quiet -o "$new/$1.iso" -V VAPOR_TINY -r -J -b isolinux.bin -c boot.cat \
        -no-emul-boot -boot-load-size 4 -boot-info-table "$cd"
    isohybrid "$new/$1.iso" 2>/dev/null
    qemu-img convert -f raw -O qcow2 "$new/$1.iso" "$new/$1.qcow2"
}
boot_image tiny ''
boot_image tiny-noacpi vapor.noacpi

mv "$new"/* "$out/"
echo "$stamp" >"$out/stamp"
say "built in $((SECONDS - started)) s: $(cd "$out" && du -h vmlinuz initrd.img tiny.iso tiny.qcow2 | tr '\t\n' '  ')"
echo "$out"
