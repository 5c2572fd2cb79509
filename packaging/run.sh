#!/bin/bash
# From nothing to a running virtual machine; called by `make run`.
#
# Installs what is missing, builds release, makes sure that a libvirt answers on qemu:///system,
# starts vapord on a socket and a database of its own, creates and boots the tiny guest through the
# API, and shows it with its address and operating system as the guest agent reports them. Then the
# daemon stays in the foreground until Ctrl-C. With ONESHOT=1 it stops after showing; the exit
# status is 0 only if the guest really answered.
#
# What it makes (one VM, one pool, perhaps one network, one temporary folder, perhaps libvirt's
# daemons) it removes at the end; what it did not make it leaves alone.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
lab=${VAPOR_LAB:-$root/target/lab}
bin=${CARGO_TARGET_DIR:-$root/target}/release
oneshot=${ONESHOT:-}
[ "$oneshot" != 0 ] || oneshot=
uri=qemu:///system
vms=/api/v1/virtualization/virtualmachines

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }
die() {
    echo "run: $*" >&2
    exit 1
}

# --- as the user: what is missing, the build --------------------------------------------------------

if [ "${1:-}" != --built ]; then
    PATH=$PATH:/usr/sbin:/sbin
    # sudo forgets where the caller's Rust is.
    if ! command -v cargo >/dev/null && [ -n "${SUDO_USER:-}" ]; then
        PATH=$PATH:$(getent passwd "$SUDO_USER" | cut -d: -f6)/.cargo/bin
    fi
    command -v cargo >/dev/null || die 'Rust is not installed: there is no cargo in PATH'
    say 'Installing what is missing'
    "$root/tests/lab/setup.sh" --run
    "$root/tests/lab/guest/build.sh" >/dev/null
    say 'Building'
    (cd "$root" && cargo build --release --locked)
    # libvirt's system socket is root's.
    if [ "$(id -u)" != 0 ]; then
        exec sudo VAPOR_LAB="$lab" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}" ONESHOT="$oneshot" \
            PATH="$PATH" bash "$0" --built
    fi
fi

# --- as root: libvirt, vapord, the guest ------------------------------------------------------------

# libvirt's qemu user must be able to enter it; /var/tmp is there for all.
work=$(mktemp -d /var/tmp/vapor-run.XXXXXX)
chmod 755 "$work"
name=tiny-${work##*.}
name=${name,,}
pool=vapor-run-${work##*.}
network=default
made_vm='' own_network='' own_pool='' daemon='' started_daemons=()

libvirt() { setsid -w virsh -q -c $uri "$@"; }
vapor() { "$bin/vapor" --socket "$work/vapor.sock" "$@"; }

running() { # a process that nobody has waited for yet has ended all the same
    grep -q '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status" 2>/dev/null
}

# From here on, whatever happens, what was made is removed, in reverse order.
cleanup() {
    local status=$? pid
    trap '' INT TERM
    set +e
    if [ -f "$work/vapord.log" ] && [ $status != 0 ]; then
        say 'What vapord logged last'
        tail -n 40 "$work/vapord.log"
    fi
    say 'Cleaning up'
    if [ -n "$made_vm" ]; then
        # Through the API, as it was made; past it only if the daemon no longer can.
        if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
            vapor vm delete "$name" --force --remove-disks --yes
        fi
        if libvirt domstate "$name" >/dev/null 2>&1; then
            libvirt destroy "$name" >/dev/null 2>&1
            libvirt undefine "$name" --managed-save --nvram >/dev/null
        fi
    fi
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill -TERM "$daemon"
        wait "$daemon" || echo "run: vapord ended with status $?" >&2
    fi
    [ -z "$own_pool" ] || libvirt pool-destroy "$pool" >/dev/null
    [ -z "$own_network" ] || libvirt net-destroy "$network" >/dev/null
    if [ ${#started_daemons[@]} -gt 0 ] && [ -z "$(libvirt list --name 2>/dev/null)" ]; then
        for pid in "${started_daemons[@]}"; do
            kill "$pid" 2>/dev/null
            for ((tries = 0; tries < 100; tries++)); do
                ! running "$pid" || sleep 0.05
            done
        done
    fi
    rm -rf "$work"
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Starts one of libvirt's daemons where no service manager does. One that is just going away after
# an earlier run keeps its pid file for some seconds.
launch() { # name, pid file
    local tries
    for ((tries = 0; tries < 20; tries++)); do
        ! "$1" -d </dev/null 2>"$work/$1.log" || break
        sleep 0.5
    done
    [ $tries -lt 20 ] || die "$1 does not start: $(cat "$work/$1.log")"
    started_daemons=("$(cat "$2")" "${started_daemons[@]}")
}

answers() { timeout 20 setsid -w virsh -q -c $uri uri >/dev/null 2>&1; }

say 'Looking for libvirt'
if ! answers; then
    if [ -d /run/systemd/system ]; then
        systemctl start libvirtd.service
    else
        # What a service manager would have seen to before.
        if ! timeout 5 dbus-send --system --print-reply --dest=org.freedesktop.DBus / \
            org.freedesktop.DBus.Peer.Ping >/dev/null 2>&1; then
            mkdir -p /run/dbus
            rm -f /run/dbus/pid /run/dbus/system_bus_socket
            dbus-daemon --system --fork --print-pid >"$work/dbus.pid"
            started_daemons=("$(cat "$work/dbus.pid")")
        fi
        running "$(cat /run/virtlogd.pid 2>/dev/null || echo none)" || launch virtlogd /run/virtlogd.pid
        launch libvirtd /run/libvirtd.pid
    fi
    answers || die "libvirt does not answer on $uri"
fi
setsid -w virsh -c $uri version --daemon | sed -n 's/^\(Running.*\)/  \1/p'

# The network `default` where it is active, else one of our own on a subnet that nobody has.
if ! grep -q '^Active: *yes' <<<"$(libvirt net-info default 2>/dev/null)"; then
    network=$pool
    routes=$(ip -4 route show)
    for subnet in $(seq 130 250); do
        ! grep -q "192\.168\.$subnet\." <<<"$routes" || continue
        cat >"$work/network.xml" <<XML
<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>$network</name>
  <forward mode='nat'/>
  <bridge name='vap${work##*.}' stp='off' delay='0'/>
  <ip address='192.168.$subnet.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.$subnet.10' end='192.168.$subnet.250'/></dhcp>
  </ip>
  <!-- else dnsmasq pings an address for 3 s before it offers it -->
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
XML
        libvirt net-create "$work/network.xml" >/dev/null || continue
        own_network=yes
        break
    done
    [ -n "$own_network" ] || die 'no network could be made'
fi

mkdir "$work/pool"
cp "$lab/guest/vmlinuz" "$lab/guest/initrd.img" "$work/pool/"
chmod -R a+rX "$work/pool"
libvirt pool-create-as "$pool" dir --target "$work/pool" >/dev/null
own_pool=yes

say 'Starting vapord'
cat >"$work/vapor.conf" <<EOC
[server]
socket = "$work/vapor.sock"
[database]
path = "$work/vapor.db"
[libvirt]
uri = "$uri"
domain_type = "qemu" # emulation runs everywhere; a /dev/kvm need not
EOC
# In a process group of its own: Ctrl-C is for this script, which ends the daemon when it is done.
# Its log is shown when it is alone in the foreground, or if something fails.
setsid "$bin/vapord" --config "$work/vapor.conf" >"$work/vapord.log" 2>&1 &
daemon=$!
for ((tries = 0; tries < 200; tries++)); do
    ! curl -sf --unix-socket "$work/vapor.sock" -o /dev/null http://vapor/api/v1/ready || break
    kill -0 "$daemon" 2>/dev/null || die 'vapord has ended'
    sleep 0.05
done
[ $tries -lt 200 ] || die 'vapord does not get ready'

say "Creating the virtual machine $name"
cat >"$work/vm.json" <<EOJ
{
  "name": "$name",
  "description": "the tiny guest of make run",
  "memory": 256,
  "vcpus": 1,
  "os": {
    "type": "linux",
    "direct_boot": {
      "kernel": {"pool": "$pool", "volume": "vmlinuz"},
      "initrd": {"pool": "$pool", "volume": "initrd.img"},
      "cmdline": "console=ttyS0 vapor.hostname=$name"
    }
  },
  "storage": {"disks": [{"action": "create", "size": 1, "pool": "$pool"}]},
  "networks": [{"type": "network", "source": "$network"}]
}
EOJ
cat "$work/vm.json"
made_vm=yes
begun=$SECONDS
# libvirt asks a QEMU that it has not met before for some seconds what it can do; until the daemon
# knows, it answers that libvirt is not there (exit status 6).
for ((tries = 0; tries < 60; tries++)); do
    status=0
    vapor vm create -f "$work/vm.json" 2>"$work/create.log" || status=$?
    [ $status = 6 ] || break
    sleep 1
done
cat "$work/create.log" >&2
[ "$status" = 0 ] || exit "$status"
vapor vm start "$name"

# What the API says of the guest, in one line; empty until the agent has told address and system.
# The address of a DHCP lease alone would not do.
answer() {
    curl -sf --max-time 10 --unix-socket "$work/vapor.sock" "http://vapor$vms/$name" | /usr/bin/python3 -c '
import json, sys
details = json.load(sys.stdin)["data"]["runtimeDetails"] or {}
addresses = [a["address"] for a in details.get("addresses", []) if a["source"] == "agent" and a["family"] == "ipv4"]
if details.get("guest_agent") == "connected" and details.get("os_name") and addresses:
    print(addresses[0], "|", details["os_name"], "|", details.get("hostname"))
'
}

say 'Waiting for the guest agent'
for ((tries = 0; tries < 360; tries++)); do
    told=$(answer 2>/dev/null) || told=''
    [ -z "$told" ] || break
    kill -0 "$daemon" 2>/dev/null || die 'vapord has ended'
    sleep 0.5
done
vapor vm list
echo
vapor vm show "$name"
[ -n "$told" ] || die "the guest did not answer within $((SECONDS - begun)) s"
say "The guest answers after $((SECONDS - begun)) s: $told"
[ -z "$oneshot" ] || exit 0

cat <<EOT

vapord runs in the foreground; Ctrl-C ends it and removes the virtual machine. From another terminal:

  export VAPOR_SOCKET=$work/vapor.sock
  $bin/vapor vm list
  $bin/vapor vm stop $name
  curl --unix-socket \$VAPOR_SOCKET http://vapor$vms/$name
EOT
trap 'exit 0' INT TERM
echo
tail -f --pid="$daemon" "$work/vapord.log" &
wait "$daemon" || die "vapord has ended with status $?"
