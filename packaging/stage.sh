#!/bin/bash
# Lays out everything that a package installs, for both kinds of packages, into an empty folder.
#
#   packaging/stage.sh BIN FOLDER deb|rpm     BIN holds vapord and vapor, built already
#
# Times of files are SOURCE_DATE_EPOCH's, so that the same binaries make the same package.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=$(realpath "$1")
to=$2
kind=$3
: "${SOURCE_DATE_EPOCH:?}"

cd "$root"
umask 022
mkdir -p "$to"
to=$(realpath "$to")

put() { # mode, file, path in the package
    install -D -m "$1" "$2" "$to$3"
}

for name in vapord vapor; do
    put 755 "$bin/$name" /usr/bin/$name
    # Debug builds, too, in the size that their users load. A build id stays.
    strip --strip-unneeded --remove-section=.comment --remove-section=.note "$to/usr/bin/$name"
done
put 644 systemd/vapord.service /usr/lib/systemd/system/vapord.service
put 644 systemd/vapord.socket /usr/lib/systemd/system/vapord.socket
put 644 packaging/sysusers.d/vapor.conf /usr/lib/sysusers.d/vapor.conf
put 644 packaging/tmpfiles.d/vapor.conf /usr/lib/tmpfiles.d/vapor.conf
put 644 packaging/polkit/60-vapor.rules /usr/share/polkit-1/rules.d/60-vapor.rules
put 644 vapor.conf.example /etc/vapor/vapor.conf

# What is made of the programs themselves.
mkdir -p "$to"/usr/share/man/man{1,5,8}
"$bin/vapord" --print-man vapord >"$to/usr/share/man/man8/vapord.8"
"$bin/vapord" --print-man vapor.conf >"$to/usr/share/man/man5/vapor.conf.5"
"$bin/vapor" man "$to/usr/share/man/man1"
find "$to/usr/share/man" -type f -exec gzip -9n {} +
case $kind in
    deb) zsh=/usr/share/zsh/vendor-completions ;;
    rpm) zsh=/usr/share/zsh/site-functions ;;
    *) echo "stage.sh: neither deb nor rpm: $kind" >&2; exit 64 ;;
esac
completions() { # shell, path
    mkdir -p "$to$(dirname "$2")"
    "$bin/vapor" completions "$1" >"$to$2"
}
completions bash /usr/share/bash-completion/completions/vapor
completions zsh $zsh/_vapor
completions fish /usr/share/fish/vendor_completions.d/vapor.fish

doc=/usr/share/doc/vapor
put 644 README.md $doc/README.md
for page in docs/*.md; do
    put 644 "$page" $doc/"$(basename "$page")"
done
"$bin/vapord" --print-openapi >"$to$doc/openapi.json"
[ "$kind" = rpm ] || put 644 packaging/deb/copyright $doc/copyright
put 644 packaging/grafana/vapor.json /usr/share/vapor/grafana/vapor.json

find "$to" -exec chmod u+rwX,go+rX,go-w {} +
find "$to" -depth -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
