#!/bin/bash
# Fuzzes the API with schemathesis: every operation of the OpenAPI document that the daemon serves,
# all checks on, settings and the reasons for them in schemathesis.toml and hooks.py. The daemon is
# a fresh one on a world of libvirt's test driver, so nothing real can be hurt.
#
# Arguments go to schemathesis, after and over what stands here. Cases are the same in every run;
# VAPOR_FUZZ_SEED=N tries others and is printed, so that a failure can be repeated.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
lab=${VAPOR_LAB:-$root/target/lab}
vapord=${VAPORD:-${CARGO_TARGET_DIR:-$root/target}/debug/vapord}
schemathesis=${SCHEMATHESIS:-$lab/venv/bin/schemathesis}
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
cp "$root/tests/openapi/node.xml" "$root/tests/openapi/hooks.py" \
    "$root/tests/openapi/schemathesis.toml" "$work"
cat >"$work/vapor.conf" <<EOC
[server]
socket = "$work/vapor.sock"
host = "127.0.0.1"
port = $port
[database]
path = "$work/vapor.db"
[libvirt]
uri = "test://$work/node.xml"
[log]
level = "warn"
EOC
if [ -n "${VAPOR_FUZZ_SEED:-}" ]; then
    echo "run.sh: VAPOR_FUZZ_SEED=$VAPOR_FUZZ_SEED"
    sed -i "s/^deterministic = true/deterministic = false/; 1i seed = $VAPOR_FUZZ_SEED" \
        "$work/schemathesis.toml"
fi
"$vapord" --config "$work/vapor.conf" >"$work/log" 2>&1 &
daemon=$!

url=http://127.0.0.1:$port/api/v1
for ((tries = 0; tries < 200; tries++)); do
    ! curl -sf -o "$work/ready.json" "$url/ready" || break
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
if [ ! -s "$work/ready.json" ]; then
    echo 'run.sh: vapord does not become ready' >&2
    cat "$work/log" >&2
    exit 1
fi

status=0
(cd "$work" && timeout --foreground "${VAPOR_FUZZ_SECONDS:-900}" \
    "$schemathesis" --config-file schemathesis.toml run "$url/openapi.json" "$@") || status=$?
if ! kill -0 "$daemon" 2>/dev/null; then
    echo 'run.sh: vapord has ended under it' >&2
    status=1
elif [ "$(curl -s "$url/metrics" | sed -n 's/^vapor_http_panics_total //p')" != 0 ]; then
    echo 'run.sh: a handler of vapord has panicked' >&2
    status=1
fi
if [ $status != 0 ]; then
    echo '--- the end of the log of vapord' >&2
    tail -n 40 "$work/log" >&2
fi
exit $status
