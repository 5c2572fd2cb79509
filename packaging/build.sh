#!/bin/bash
# Makes the packages of the binaries in a folder; called by `make packages` and by the tests.
#
#   packaging/build.sh [--bin FOLDER] [--out FOLDER] [--version VERSION] [--fast] [deb] [rpm]
#
# BIN is target/release, OUT target/packages, VERSION that of Cargo.toml, and both kinds are made, unless
# told otherwise; --fast compresses less. MAINTAINER='Name <address>' is named in them. The same binaries and the same SOURCE_DATE_EPOCH (that of the last commit if unset)
# give the same packages, byte for byte. Prints the packages' paths.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${CARGO_TARGET_DIR:-$root/target}/release
out=${CARGO_TARGET_DIR:-$root/target}/packages
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
release=1
maintainer=${MAINTAINER:-The Vapor authors <vapor@localhost>}
deb_level=6 rpm_level=19
kinds=()
while [ $# -gt 0 ]; do
    case $1 in
        --bin) bin=$2; shift ;;
        --out) out=$2; shift ;;
        --version) version=$2; shift ;;
        --fast) deb_level=1 rpm_level=1 ;;
        deb | rpm) kinds+=("$1") ;;
        *) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 64 ;;
    esac
    shift
done
[ ${#kinds[@]} -gt 0 ] || kinds=(deb rpm)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export LC_ALL=C.UTF-8 TZ=UTC
bin=$(realpath "$bin")
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the binaries' symbols ask of libraries, in the words of this distribution's packages.
needed_libraries() {
    mkdir -p "$work/shlibs/debian"
    printf 'Source: vapor\n\nPackage: vapor\nArchitecture: any\n' >"$work/shlibs/debian/control"
    (cd "$work/shlibs" && dpkg-shlibdeps -S"$work/deb" -O "$work/deb/usr/bin/vapord" "$work/deb/usr/bin/vapor") |
        sed -n 's/^shlibs:Depends=//p'
}

deb() {
    local architecture libraries size file script
    "$root/packaging/stage.sh" "$bin" "$work/deb" deb
    architecture=$(dpkg --print-architecture)
    libraries=$(needed_libraries)
    size=$(du -sk --apparent-size "$work/deb" | cut -f1)
    # Debian wants the changelog compressed, and dated like the package.
    printf 'vapor (%s-%s) unstable; urgency=medium\n\n  * See README.md.\n\n -- %s  %s\n' "$version" "$release" \
        "$maintainer" "$(date -R -d "@$SOURCE_DATE_EPOCH")" |
        gzip -9n >"$work/deb/usr/share/doc/vapor/changelog.Debian.gz"
    install -D -m 644 "$root/packaging/deb/lintian-overrides" "$work/deb/usr/share/lintian/overrides/vapor"
    mkdir -p "$work/deb/DEBIAN"
    for script in postinst prerm postrm; do
        install -m 755 "$root/packaging/deb/$script" "$work/deb/DEBIAN/$script"
    done
    echo /etc/vapor/vapor.conf >"$work/deb/DEBIAN/conffiles"
    (cd "$work/deb" && find . -type f ! -path './DEBIAN/*' ! -path './etc/*' -printf '%P\0' |
        LC_ALL=C sort -z | xargs -0 md5sum) >"$work/deb/DEBIAN/md5sums"
    sed -e "s/@VERSION@/$version-$release/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
        -e "s/@LIBRARIES@/$libraries/" -e "s/@MAINTAINER@/$maintainer/" "$root/packaging/deb/control.in" >"$work/deb/DEBIAN/control"
    chmod 644 "$work/deb/DEBIAN"/{control,conffiles,md5sums}
    find "$work/deb" -depth -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    file=$out/vapor_$version-${release}_$architecture.deb
    dpkg-deb --root-owner-group -Zxz -z"$deb_level" --threads-max=1 --build "$work/deb" "$file" >/dev/null
    echo "$file"
}

rpm_package() {
    local architecture file
    "$root/packaging/stage.sh" "$bin" "$work/rpm" rpm
    architecture=$(uname -m)
    # Everything that rpmbuild would take from the machine it runs on is said here.
    rpmbuild -bb --quiet --target "$architecture-linux" \
        --define "_topdir $work/rpmbuild" --define "_rpmdir $work/rpms" --define "staged $work/rpm" \
        --define "packager $maintainer" --define "vapor_version $version" --define "vapor_release $release" \
        --define "_buildhost localhost" --define "source_date_epoch_from_changelog 0" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "_binary_payload w$rpm_level.zstdio" --define "_build_id_links none" \
        --define "__os_install_post %{nil}" --define "debug_package %{nil}" \
        "$root/packaging/rpm/vapor.spec" >"$work/rpmbuild.log" 2>&1 || { cat "$work/rpmbuild.log" >&2; exit 1; }
    file=vapor-$version-$release.$architecture.rpm
    mv "$work/rpms/$architecture/$file" "$out/$file"
    echo "$out/$file"
}

for kind in "${kinds[@]}"; do
    case $kind in
        deb) deb ;;
        rpm) rpm_package ;;
    esac
done
