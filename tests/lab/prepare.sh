#!/bin/bash
# Builds what tests boot: the tiny guest, the guest that is signed, the one with cloud-init, the machine that is a host, the systems in containers. All at
# once, because each waits for downloads and for one core by turns; nothing is made that is there already,
# and a second call waits for the first. Says how long each took; fails if one did, with its log.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${VAPOR_LAB:-$(cd "$here/../.." && pwd)/target/lab}
mkdir -p "$lab"
logs=$(mktemp -d "$lab/.prepare.XXXXXX")
trap 'rm -rf "$logs"' EXIT
names=() jobs=()

build() { # name, command...
    local name=$1
    shift
    (
        begun=$SECONDS
        "$@" >"$logs/$name" 2>&1
        echo "$((SECONDS - begun))" >"$logs/$name.seconds"
    ) &
    names+=("$name")
    jobs+=($!)
}

build guest "$here/guest/build.sh"
build secureboot "$here/secureboot/build.sh"
build cloud "$here/cloud/build.sh"
build hostvm "$here/hostvm/build.sh"
build bookworm "$here/container.sh" build bookworm
build trixie "$here/container.sh" build trixie

status=0
for index in "${!jobs[@]}"; do
    name=${names[$index]}
    if wait "${jobs[$index]}"; then
        echo "$name: $(cat "$logs/$name.seconds") s"
    else
        status=1
        echo "$name: FAILED"
        tail -n 40 "$logs/$name"
    fi
done
exit $status
