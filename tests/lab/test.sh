#!/bin/bash
# Every tier of tests, from nothing; called by `make test`. Arguments go to the test runner.
#
# Order: what is missing, the guests and systems, the API fuzzer, the documentation's examples, and last the
# test runner, whose summary ends the output. A failure does not keep the rest from running; the
# exit status is 0 only if all passed. Where cargo-nextest is missing, `cargo test` does its work.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
failed=()

stage() { # name, command...: runs it, says how long it took, remembers a failure
    local name=$1 begun=$SECONDS verdict=passed
    shift
    printf '\n== %s\n' "$name"
    "$@" || {
        verdict=FAILED
        failed+=("$name")
    }
    printf '== %s: %s in %d s\n' "$name" "$verdict" $((SECONDS - begun))
}

# What a killed run left behind would only take cores and memory from this one.
leftovers() {
    tests/lab/libvirtd.sh stop-all >/dev/null 2>&1 || true
    tests/lab/hostvm.sh stop-all >/dev/null 2>&1 || true
    tests/lab/container.sh stop-all >/dev/null 2>&1 || true
}
trap leftovers EXIT

stage 'what is missing' tests/lab/setup.sh --all
[ ${#failed[@]} = 0 ] || exit 1
leftovers
stage 'the guest, the host and the systems in containers' tests/lab/prepare.sh
stage 'building' cargo build --locked --bins
[ ${#failed[@]} = 0 ] || exit 1
stage 'API fuzzer' tests/openapi/run.sh
stage 'documentation examples' cargo test --locked --quiet --doc

status=0
if cargo nextest --version >/dev/null 2>&1; then
    profile=default
    [ -z "${CI:-}" ] || profile=ci
    printf '\n== tests\n'
    [ ${#failed[@]} = 0 ] || printf 'failed before: %s\n' "${failed[*]}"
    cargo nextest run --locked --profile $profile "$@" || status=$?
else
    printf '\n== tests (cargo test: cargo-nextest is not installed)\n'
    [ ${#failed[@]} = 0 ] || printf 'failed before: %s\n' "${failed[*]}"
    # One at a time: without nextest nothing else keeps guests from crowding each other.
    cargo test --locked --no-fail-fast --lib --bins --tests -- --test-threads=1 "$@" || status=$?
fi
[ ${#failed[@]} = 0 ] || status=1
exit $status
