#!/bin/bash
# Fuzzes the API with schemathesis: every operation of the OpenAPI document that the daemon serves,
# all checks on. The daemon is a fresh one on libvirt's test driver, so nothing real can be hurt.
# Arguments go to schemathesis, after and over what stands here.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
lab=${VAPOR_LAB:-$root/target/lab}
vapord=${VAPORD:-${CARGO_TARGET_DIR:-$root/target}/debug/vapord}
work=$(mktemp -d)
daemon=

finish() {
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" || true
    fi
    rm -rf "$work"
}
trap finish EXIT

port=$(/usr/bin/python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$work/vapor.conf" <<EOC
[server]
socket = "$work/vapor.sock"
host = "127.0.0.1"
port = $port
[database]
path = "$work/vapor.db"
[libvirt]
uri = "test:///default"
[log]
level = "warn"
EOC
"$vapord" --config "$work/vapor.conf" >"$work/log" 2>&1 &
daemon=$!

url=http://127.0.0.1:$port/api/v1
for ((tries = 0; tries < 100; tries++)); do
    ! curl -sf -o "$work/openapi.json" "$url/openapi.json" || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
if [ ! -s "$work/openapi.json" ]; then
    echo 'schemathesis.sh: vapord does not serve its OpenAPI document' >&2
    cat "$work/log" >&2
    exit 1
fi

status=0
(cd "$work" && "$lab/venv/bin/schemathesis" --config-file "$root/tests/lab/schemathesis.toml" \
    run "$url/openapi.json" "$@") || status=$?
if ! kill -0 "$daemon" 2>/dev/null; then
    echo 'schemathesis.sh: vapord has ended under it' >&2
    status=1
fi
if [ $status != 0 ]; then
    echo '--- the end of the log of vapord' >&2
    tail -n 40 "$work/log" >&2
fi
exit $status
