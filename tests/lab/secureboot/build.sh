#!/bin/bash
# Builds the disk of a guest that boots by UEFI with or without Secure Boot, and prints its path:
#
#   secureboot.img    a FAT file system with Debian's signed shim, GRUB and kernel, and the tiny guest
#                     as its initial RAM disk
#
# GRUB tries a kernel first whose signature does not fit, because one byte of it was changed. The
# guest's command line says what came of it: vapor.unsigned=booted, or vapor.unsigned=refused where
# Secure Boot is in force and the kernel as Debian signed it was booted instead.
#
# Everything comes from Debian packages, downloaded and unpacked, never installed here. A second call
# costs nothing until one of the inputs changes. --force builds anyway.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
debian=$root/tests/lab/debian.sh
out=${VAPOR_LAB:-$root/target/lab}/secureboot
image=$out/secureboot.img
packages=(linux-image-cloud-amd64 shim-signed grub-efi-amd64-signed)

. "$root/tests/lab/debian.sh"

say() { printf 'secureboot: %s\n' "$*" >&2; }

guest=$(bash "$root/tests/lab/guest/build.sh")
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

# What the result depends on.
inputs() {
    sha256sum <"$here/build.sh"
    sha256sum <"$debian"
    cat "$guest/stamp"
    for package in "${packages[@]}"; do candidate "$package"; done
}
if [ "${1:-}" != --force ] && [ -s "$image" ] && [ "$image" -nt "$guest/initrd.img" ] &&
    [ "$image" -nt "$here/build.sh" ] && [ -z "$(find /var/lib/apt/lists -maxdepth 0 -newer "$image")" ]; then
    echo "$image"
    exit 0
fi
stamp=$(inputs | sha256sum | cut -d' ' -f1)
if [ "${1:-}" != --force ] && [ -s "$image" ] && [ "$stamp" = "$(cat "$out/stamp" 2>/dev/null)" ]; then
    touch "$image"
    echo "$image"
    exit 0
fi

started=$SECONDS
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work"/{debs,tree,overlay}

say 'fetching shim, GRUB and kernel'
release=$(unpack_kernel "$work/tree")
fetch_debs "$work/debs" "${packages[@]:1}"
for deb in "$work/debs"/*.deb; do dpkg -x "$deb" "$work/tree"; done

# The tiny guest with the modules of this kernel, and the one that shows the firmware's variables.
mapfile -t modules < <(gzip -dc "$guest/initrd.img" | cpio --quiet -i --to-stdout modules/order | sed 's/\.ko$//')
pack_modules "$work/tree" "$release" "$work/overlay" "${modules[@]}" efivarfs
pack_initramfs "$work/overlay" "$work/overlay.img"

kernel=$work/tree/boot/vmlinuz-$release
LC_ALL=C sed 's/No setup signature/no setup signature/' "$kernel" >"$work/changed"
if cmp -s "$kernel" "$work/changed" || [ "$(stat -c %s "$kernel")" != "$(stat -c %s "$work/changed")" ]; then
    say 'the kernel could not be changed'
    exit 70
fi

words='console=ttyS0 quiet vapor.hostname=secureboot'
cat >"$work/grub.cfg" <<CFG
if linux /changed $words vapor.unsigned=booted; then
    true
else
    linux /vmlinuz $words vapor.unsigned=refused
fi
initrd /initrd.img /overlay.img
boot
CFG

say "packing $release"
new=$work/secureboot.img
truncate -s 64M "$new"
mformat -i "$new" -v VAPOR -F ::
mmd -i "$new" ::/EFI ::/EFI/BOOT ::/EFI/debian
mcopy -i "$new" "$work/tree/usr/lib/shim/shimx64.efi.signed" ::/EFI/BOOT/BOOTX64.EFI
mcopy -i "$new" "$work/tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::/EFI/BOOT/grubx64.efi
# Where a signed GRUB looks for its configuration is signed with it.
mcopy -i "$new" "$work/grub.cfg" ::/EFI/debian/grub.cfg
mcopy -i "$new" "$kernel" ::/vmlinuz
mcopy -i "$new" "$work/changed" "$work/overlay.img" "$guest/initrd.img" ::/
chmod 644 "$new"
mv "$new" "$image"
echo "$stamp" >"$out/stamp"
say "built in $((SECONDS - started)) s"
echo "$image"
