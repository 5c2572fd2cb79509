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
out=${VAPOR_LAB:-$root/target/lab}/guest
kernel_package=linux-image-cloud-amd64
modules=(virtio_pci virtio_blk virtio_net virtio_console virtio_balloon virtio_rng virtio_scsi
    button evdev)

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
    [ -z "$(find "$here" /bin/busybox -newer "$out/stamp" -print -quit)" ] &&
    [ -z "$(find /var/lib/apt/lists -maxdepth 0 -newer "$out/stamp")" ]; then
    echo "$out"
    exit 0
fi

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'; }

# What the result depends on.
stamp=$({
    find "$here" -type f -not -name '*.md' | LC_ALL=C sort | xargs sha256sum | sed "s#$here##"
    candidate $kernel_package
    candidate qemu-guest-agent
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

fetch() { # package names; leaves the .deb files in $work/debs
    (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "$@" >&2)
}

refresh() {
    say 'asking for new package lists'
    if [ "$(id -u)" = 0 ]; then apt-get -qq update >&2; else sudo apt-get -qq update >&2; fi
}

say 'fetching kernel and guest agent'
# Old lists name versions that the archive no longer has.
[ -n "$(candidate $kernel_package)" ] || refresh
fetch $kernel_package qemu-guest-agent || { refresh && fetch $kernel_package qemu-guest-agent; }
# The package of that name is empty and depends on the kernel itself.
image=$(dpkg-deb -f "$work/debs/$kernel_package"_*.deb Depends | grep -o 'linux-image-[^ ,]*' | head -n 1)
fetch "$image" || { refresh && fetch "$image"; }
for deb in "$work/debs/$image"_*.deb "$work/debs"/qemu-guest-agent_*.deb; do
    dpkg -x "$deb" "$work/tree"
done
# Debian 13 has /usr/lib/modules, Debian 12 /lib/modules: one place, where depmod looks.
if [ ! -d "$work/tree/lib/modules" ]; then
    mkdir -p "$work/tree/lib"
    ln -s ../usr/lib/modules "$work/tree/lib/modules"
fi
release=$(basename "$work/tree/lib/modules"/*)

say "packing $release"
guest=$work/guest
mkdir -p "$guest"/{dev,proc,sys,run,tmp,root,etc,bin,sbin,modules,usr/bin,usr/sbin,lib64}
cp -a "$here/rootfs/." "$guest/"
cp /bin/busybox "$guest/bin/busybox"
"$guest/bin/busybox" --list | while read -r applet; do
    [ -e "$guest/bin/$applet" ] || ln -s busybox "$guest/bin/$applet"
done

# Modules with what they need, in an order that loads; those built into the kernel are not named.
depmod -b "$work/tree" "$release"
for module in "${modules[@]}"; do
    modprobe -d "$work/tree" -S "$release" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
done | awk '!seen[$0]++' | while read -r file; do
    name=$(basename "$file")
    case $name in
        *.xz) xz -dc "$file" >"$guest/modules/${name%.xz}" ;;
        *.zst) zstd -qdc "$file" >"$guest/modules/${name%.zst}" ;;
        *) cp "$file" "$guest/modules/$name" ;;
    esac
    name=${name%.xz}
    echo "${name%.zst}" >>"$guest/modules/order"
done

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
(cd "$guest" && find . -print0 | LC_ALL=C sort -z |
    cpio --quiet -0 -o -H newc -R 0:0 --reproducible) | gzip -9n >"$new/initrd.img"

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
