# shellcheck shell=bash
# What the lab's scripts share about Debian: this machine's release and archive, single packages,
# kernels and whole trees of them. Sourced, not run.

version_of() { dpkg-query -W -f '${db:Status-Status} ${Version}' "$1" 2>/dev/null | sed -n 's/^installed //p'; }

candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'; }

debian_codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-unknown}"); }

# The suite that libvirt and QEMU must come from, if it is not the release itself: on Debian 12 the
# stock QEMU conflicts with a qemu-utils from backports, and binaries are linked with this libvirt.
debian_suite() {
    case "$(debian_codename) $(version_of qemu-utils) $(version_of libvirt0)" in
        "bookworm "*~bpo12*) echo bookworm-backports ;;
    esac
}

# The archive that serves the machine's own release: "URI FILE", FILE being where apt was told of it.
debian_entry() {
    # shellcheck disable=SC2016 # the placeholders are apt's
    apt-get indextargets --format '$(RELEASE)|$(COMPONENT)|$(REPO_URI)|$(SOURCESENTRY)' 'Created-By: Packages' |
        awk -F'|' -v r="$(debian_codename)" '$1 == r && $2 == "main" { sub(/:[0-9]+$/, "", $4); print $3, $4; exit }'
}

# What of the archive a tree is made from, and debootstrap's script if it does not know the release.
debian_components() { echo main; }
debian_script() { :; }

# The key file that an apt source names, in either format; Debian's own keyring where it names none.
key_of() {
    local key
    key=$(sed -n 's/^Signed-By: *\(\/.*\)$/\1/p; s/.*\[.*signed-by=\([^] ]*\).*/\1/p' "$1" | head -n 1)
    echo "${key:-/usr/share/keyrings/debian-archive-keyring.gpg}"
}

# apt does not wait for another that does the same.
refresh_lists() {
    echo "${0##*/}: asking for new package lists" >&2
    (
        flock 8
        if [ "$(id -u)" = 0 ]; then apt-get -qq update >&2; else sudo apt-get -qq update >&2; fi
    ) 8>"/tmp/vapor-lab-apt.$(id -u)"
}

# Downloads packages into a folder, without installing them.
fetch_debs() { # folder, package...
    local folder=$1
    shift
    # Old lists name versions that the archive no longer has.
    (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$@" >&2) ||
        { refresh_lists && (cd "$folder" && apt-get -qq -o APT::Sandbox::User=root download "$@" >&2); }
}

# Unpacks Debian's kernel for virtual machines into a tree, with $tree/boot/vmlinuz-RELEASE, and
# prints RELEASE. Its modules' dependencies are computed.
unpack_kernel() { # tree
    local tree=$1 debs image release
    debs=$(mktemp -d "$tree/.kernel.XXXXXX")
    fetch_debs "$debs" linux-image-cloud-amd64 || return
    # The package of that name is empty and depends on the kernel itself.
    image=$(dpkg-deb -f "$debs"/linux-image-cloud-amd64_*.deb Depends | grep -o 'linux-image-[^ ,]*' | head -n 1)
    fetch_debs "$debs" "$image" || return
    # Through tar, which follows a tree's /lib that is a link; dpkg would replace it.
    dpkg-deb --fsys-tarfile "$debs/$image"_*.deb | tar -x --keep-directory-symlink -C "$tree"
    rm -rf "$debs"
    # Debian 13 has /usr/lib/modules, Debian 12 /lib/modules: one place, where depmod looks.
    if [ ! -d "$tree/lib/modules" ]; then
        mkdir -p "$tree/lib"
        ln -s ../usr/lib/modules "$tree/lib/modules"
    fi
    release=$(basename "$tree/lib/modules"/*)
    depmod -b "$tree" "$release"
    echo "$release"
}

# Packs kernel modules with what they need, unpacked, into FOLDER/modules; the file `order` there
# names them in an order that loads. Those built into the kernel are not named.
pack_modules() { # tree, release, folder, module...
    local tree=$1 release=$2 folder=$3/modules file name
    shift 3
    mkdir -p "$folder"
    for name; do
        modprobe -d "$tree" -S "$release" --show-depends "$name" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r file; do
        name=$(basename "$file")
        case $name in
            *.xz) xz -dc "$file" >"$folder/${name%.xz}" ;;
            *.zst) zstd -qdc "$file" >"$folder/${name%.zst}" ;;
            *) cp "$file" "$folder/$name" ;;
        esac
        name=${name%.xz}
        echo "${name%.zst}" >>"$folder/order"
    done
}

# Packs a folder as an initramfs.
pack_initramfs() { # folder, file
    (cd "$1" && find . -print0 | LC_ALL=C sort -z |
        cpio --quiet -0 -o -H newc -R 0:0 --reproducible) | gzip -9n >"$2"
}

# Makes a Debian of this machine's release in FOLDER, which must not be there: the base system, the
# packages named, and those after `--` from the suite that this machine's libvirt is from, `?package`
# only if there is such a one. Nothing of it is started. Downloads are kept in CACHE, which no other
# build may use meanwhile: debootstrap takes what another has half written for a damaged file, and
# removes it. Needs root; what must be mounted meanwhile is mounted in a namespace of its own. Callers
# ask `if debian_tree`, in which no failure ends the shell: each step says so itself.
debian_tree() { # folder, cache, package... -- package...
    local folder=$1 cache=$2 base=() family=() uri source key suite
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do
        base+=("$1")
        shift
    done
    [ $# = 0 ] || { shift; family=("$@"); }
    read -r uri source < <(debian_entry)
    [ -n "${uri:-}" ] || { echo "${0##*/}: no apt source for $(debian_codename)" >&2; return 69; }
    key=$(key_of "$source")
    suite=$(debian_suite)
    mkdir -p "$cache"
    local -x http_proxy=${http_proxy:-$(apt-config shell p Acquire::http::Proxy | sed "s/^p='\(.*\)'$/\1/")}
    # shellcheck disable=SC2046 # it may be nothing
    unshare -m --propagation private debootstrap --variant=minbase --cache-dir="$(realpath "$cache")" \
        --keyring="$key" --components="$(debian_components | tr ' ' ,)" --include="$(IFS=,; echo "${base[*]}")" \
        "$(debian_codename)" "$folder" "$uri" $(debian_script) >&2 || return
    [ ${#family[@]} -gt 0 ] || return 0

    mkdir -p "$folder/etc/apt/keyrings"
    cp "$key" "$folder/etc/apt/keyrings/archive.gpg"
    rm -f "$folder/etc/apt/sources.list"
    cat >"$folder/etc/apt/sources.list.d/debian.sources" <<-SOURCES
	Types: deb
	URIs: $uri
	Suites: $(debian_codename)${suite:+ $suite}
	Components: $(debian_components)
	Signed-By: /etc/apt/keyrings/archive.gpg
	SOURCES
    printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
    chmod 755 "$folder/usr/sbin/policy-rc.d"
    # shellcheck disable=SC2016 # expanded by the shell in the namespace
    unshare -m --propagation private bash -euc '
        folder=$1 cache=$2 suite=$3
        shift 3
        mount -t proc proc "$folder/proc"
        mount --bind "$cache" "$folder/var/cache/apt/archives"
        cp -L /etc/resolv.conf "$folder/etc/resolv.conf"
        inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
            ${http_proxy:+http_proxy="$http_proxy"} chroot "$folder" "$@"; }
        inside apt-get -qq update
        wanted=()
        for package; do
            case $package in
                \?*) ! inside apt-cache show "${package#?}" >/dev/null 2>&1 || wanted+=("${package#?}") ;;
                *) wanted+=("$package") ;;
            esac
        done
        inside apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 -o APT::Keep-Downloaded-Packages=true \
            -o APT::Sandbox::User=root -o DPkg::Options::=--force-unsafe-io ${suite:+-t "$suite"} install "${wanted[@]}"
        rm -f "$folder/etc/resolv.conf"
    ' bash "$folder" "$(realpath "$cache")" "$suite" "${family[@]}" >&2 || return
    rm -rf "$folder/usr/sbin/policy-rc.d" "$folder"/var/lib/apt/lists/* "$folder"/var/cache/apt/*.bin
}
