#!/bin/bash
# A private libvirtd (system mode, QEMU) that collides with nothing, for tests.
#
#   tests/lab/libvirtd.sh start DIR         start, or start again after kill; prints what `env` prints
#   tests/lab/libvirtd.sh env DIR           NAME='value' lines: URI, process ids, names of what is there
#   tests/lab/libvirtd.sh kill DIR          SIGKILL libvirtd; guests, networks and namespaces live on
#   tests/lab/libvirtd.sh restart DIR       SIGTERM libvirtd and start it again; guests live on
#   tests/lab/libvirtd.sh status DIR        exit 0 running, 3 killed (start resumes it), 4 not there
#   tests/lab/libvirtd.sh pid DIR DOMAIN    the process id of a domain's QEMU
#   tests/lab/libvirtd.sh exec DIR CMD...   run a command inside the namespaces
#   tests/lab/libvirtd.sh stop DIR          end guests, daemons and namespaces, remove DIR
#   tests/lab/libvirtd.sh stop-all          the same for every instance of this checkout
#
# DIR is the script's own: absent or empty at the first start, gone after stop. It runs in its own
# mount, network and UTS namespaces, on its own /etc/libvirt, /var/lib/libvirt, /var/log/libvirt,
# /var/cache/libvirt and /run/libvirt, so any number may run beside each other and beside the
# host's. README.md beside this file has the whole contract.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
lab=${VAPOR_LAB:-$(cd "$here/../.." && pwd)/target/lab}
instances=$lab/instances

die() {
    echo "libvirtd.sh: $1" >&2
    exit "${2:-1}"
}

usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

if [ "$(id -u)" != 0 ] && [ "${1:-help}" != help ]; then
    exec sudo -n VAPOR_LAB="$lab" VAPOR_LAB_KVM="${VAPOR_LAB_KVM:-}" VAPOR_LAB_KEEP="${VAPOR_LAB_KEEP:-}" \
        bash "$0" "$@"
fi

# --- processes: only recorded ones, and only while they are in the instance's namespaces ---------

recorded() { # file name -> the process id in it, if that process lives
    local pid
    pid=$(cat "$dir/$1" 2>/dev/null) || return 1
    [ -n "$pid" ] && [ -d "/proc/$pid" ] || return 1
    [ "$1" = holder.pid ] || inside "$pid" || return 1
    echo "$pid"
}

# The holder's mount namespace is named in a file, so that a recycled process id fools nobody.
holder() {
    local pid
    pid=$(recorded holder.pid) || return 1
    [ "$(readlink "/proc/$pid/ns/mnt")" = "$(cat "$dir/namespace" 2>/dev/null)" ] || return 1
    echo "$pid"
}

inside() {
    [ "$(readlink "/proc/$1/ns/mnt" 2>/dev/null)" = "$(cat "$dir/namespace")" ]
}

# QEMU may live in a mount namespace of its own, but shares the instance's network namespace.
residents() { # process ids in the instance's namespaces, without the holder
    local net pid link keeper=$1
    net=$(readlink "/proc/$keeper/ns/net")
    for link in /proc/[0-9]*/ns/net; do
        [ "$(readlink "$link" 2>/dev/null)" = "$net" ] || continue
        pid=${link#/proc/}
        pid=${pid%%/*}
        [ "$pid" = "$keeper" ] || echo "$pid"
    done
}

gone() { # waits until a process has ended, at most 30 s; a loaded machine may need some
    local tries
    for ((tries = 0; tries < 1500; tries++)); do
        [ -d "/proc/$1" ] || return 0
        # A zombie whose parent does not reap it is as good as gone.
        ! grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null || return 0
        sleep 0.02
    done
    return 1
}

# What root left among a sudo user's files is the user's.
hand_over() {
    [ -z "${SUDO_UID:-}" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$instances" "$lab"/capabilities* 2>/dev/null || true
}

# --- the instance's own file trees -----------------------------------------------------------------

write_config() {
    mkdir -p "$dir"/{pool,guest} "$dir"/state/{lib,log,cache,run} \
        "$dir"/state/etc/{qemu/networks/autostart,storage/autostart,secrets,nwfilter}
    chmod 755 "$dir" "$dir/state"
    chmod 777 "$dir/pool"
    chmod 755 "$dir/guest"
    cat >"$dir/state/etc/libvirtd.conf" <<-CONF
	host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
	unix_sock_dir = "$dir"
	unix_sock_rw_perms = "0777"
	auth_unix_ro = "none"
	auth_unix_rw = "none"
	max_clients = 1000
	log_outputs = "2:file:$dir/libvirtd.log"
	CONF
    cat >"$dir/state/etc/qemu.conf" <<-'CONF'
	user = "root"
	group = "root"
	swtpm_user = "root"
	swtpm_group = "root"
	security_driver = "none"
	remember_owner = 0
	namespaces = [ ]
	cgroup_controllers = [ ]
	stdio_handler = "file"
	CONF
    cat >"$dir/state/etc/qemu/networks/lab.xml" <<-XML
	<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
	  <name>lab</name>
	  <uuid>$(cat /proc/sys/kernel/random/uuid)</uuid>
	  <forward mode='nat'/>
	  <bridge name='labbr0' stp='off' delay='0'/>
	  <ip address='192.168.123.1' netmask='255.255.255.0'>
	    <dhcp><range start='192.168.123.10' end='192.168.123.250'/></dhcp>
	  </ip>
	  <!-- else dnsmasq pings an address for 3 s before it offers it -->
	  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
	</network>
	XML
    local pool
    for pool in lab guest; do
        cat >"$dir/state/etc/storage/$pool.xml" <<-XML
		<pool type='dir'>
		  <name>$pool</name>
		  <uuid>$(cat /proc/sys/kernel/random/uuid)</uuid>
		  <target><path>$dir/$([ $pool = lab ] && echo pool || echo guest)</path></target>
		</pool>
		XML
        ln -sf "/etc/libvirt/storage/$pool.xml" "$dir/state/etc/storage/autostart/$pool.xml"
    done
    ln -sf /etc/libvirt/qemu/networks/lab.xml "$dir/state/etc/qemu/networks/autostart/lab.xml"
    # Copies, because libvirt changes the owner of what it opens, and a test may write to a volume.
    local file
    for file in vmlinuz initrd.img tiny.iso tiny.qcow2 tiny-noacpi.iso tiny-noacpi.qcow2; do
        [ ! -e "$lab/guest/$file" ] || cp --reflink=auto "$lab/guest/$file" "$dir/guest/"
    done
    # What an earlier instance learned about this QEMU; libvirt checks by itself whether it still fits.
    [ ! -d "$lab/capabilities" ] || cp -a "$lab/capabilities" "$dir/state/cache/qemu"
}

# A /dev without kvm. Covering the node does not do: to libvirt a /dev/kvm that can be opened and a
# QEMU that cannot use it mean that something has changed, and it probes QEMU again at every question.
hide_kvm() {
    local entry new=$dir/state/dev
    mkdir "$new"
    mount -t tmpfs -o mode=755 dev "$new"
    for entry in /dev/*; do
        if [ -d "$entry" ] && [ ! -L "$entry" ]; then
            mkdir "$new/${entry#/dev/}"
            mount --rbind "$entry" "$new/${entry#/dev/}"
        fi
    done
    find /dev -mindepth 1 -maxdepth 1 ! -type d ! -name kvm -exec cp -a -t "$new" {} +
    mount --rbind "$new" /dev
}

# Runs as the first process in the new namespaces and then only holds them.
hold() {
    local tree
    hostname "$(basename "$dir")"
    mkdir -p /run/libvirt /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
    mount --bind "$dir/state/etc" /etc/libvirt
    for tree in lib log cache; do mount --bind "$dir/state/$tree" /var/$tree/libvirt; done
    mount -t tmpfs -o mode=755 tmpfs /run/libvirt
    # No message bus: no machined that knows a domain of that name already, no firewalld.
    [ ! -d /run/dbus ] || mount -t tmpfs tmpfs /run/dbus
    # /sys shows the network namespace it was mounted in; libvirt sets up its bridge there. It also
    # takes the cgroup trees away, in which two libvirtd would meet.
    umount -l /sys
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    # Emulation everywhere: a /dev/kvm that opens need not run a guest. VAPOR_LAB_KVM=1 leaves it.
    [ -n "${VAPOR_LAB_KVM:-}" ] || [ ! -e /dev/kvm ] || hide_kvm
    ip link set lo up
    readlink /proc/self/ns/mnt >"$dir/namespace"
    echo $$ >"$dir/holder.pid"
    exec sleep infinity
}

# --- commands --------------------------------------------------------------------------------------

uri() { echo "qemu+unix:///system?socket=$dir/libvirt-sock"; }

enter() { # command in the instance's namespaces
    nsenter -t "$(holder)" -m -n -u --root -- "$@"
}

start() {
    local tries
    if ! holder >/dev/null; then
        [ ${#dir} -le 90 ] || die "the path is too long for a Unix socket: $dir" 65
        if [ -e "$dir" ] && [ ! -e "$dir/.vapor-lab" ] && [ -n "$(ls -A "$dir")" ]; then
            die "$dir has other things in it" 65
        fi
        mkdir -p "$dir" "$instances"
        touch "$dir/.vapor-lab"
        rm -f "$dir/holder.pid" "$dir/namespace"
        rm -rf "$dir/state"
        write_config
        ln -sfn "$dir" "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
        setsid unshare -m -n -u --propagation private bash "$0" __hold "$dir" \
            </dev/null >"$dir/holder.log" 2>&1 &
        for ((tries = 0; tries < 1500; tries++)); do
            [ ! -s "$dir/holder.pid" ] || break
            sleep 0.02
        done
        holder >/dev/null || die "the namespaces could not be made: $(cat "$dir/holder.log")"
    fi
    if ! recorded libvirtd.pid >/dev/null; then
        (cd / && enter env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
            libvirtd -d -p "$dir/libvirtd.pid") </dev/null >>"$dir/libvirtd.log" 2>&1 ||
            die "libvirtd does not start: $(tail -n 5 "$dir/libvirtd.log")"
    fi
    # It accepts connections before its drivers are ready, and lets them wait.
    timeout 60 virsh -q -c "$(uri)" net-list >/dev/null || die "libvirtd does not answer; see $dir/libvirtd.log"
    hand_over
    show
}

show() {
    cat <<-ENV
	VAPOR_LAB_URI='$(uri)'
	VAPOR_LAB_SOCKET='$dir/libvirt-sock'
	VAPOR_LAB_HOLDER_PID='$(holder || true)'
	VAPOR_LAB_LIBVIRTD_PID='$(recorded libvirtd.pid || true)'
	VAPOR_LAB_NETWORK='lab'
	VAPOR_LAB_POOL='lab'
	VAPOR_LAB_POOL_DIR='$dir/pool'
	VAPOR_LAB_GUEST_POOL='guest'
	VAPOR_LAB_GUEST_DIR='$dir/guest'
	VAPOR_LAB_LOG='$dir/libvirtd.log'
	ENV
}

end_libvirtd() { # signal
    local pid
    pid=$(recorded libvirtd.pid) || return 0
    kill "-$1" "$pid"
    gone "$pid" || die "libvirtd $pid does not end"
}

# What this instance learned about QEMU spares the next one a probe of some seconds.
remember_capabilities() {
    local new=$dir/state/cache/qemu old=$lab/capabilities
    [ -z "${VAPOR_LAB_KVM:-}" ] && [ -d "$new/capabilities" ] || return 0
    (
        flock 9
        if ! diff -rq "$new" "$old" >/dev/null 2>&1; then
            rm -rf "$old"
            cp -a "$new" "$old"
        fi
    ) 9>"$lab/capabilities.lock"
}

stop() {
    local keeper pid pass
    if keeper=$(holder); then
        remember_capabilities
        # First the daemon, so that it starts nothing new; then whatever else lives in there.
        end_libvirtd KILL
        for pass in 1 2 3; do
            for pid in $(residents "$keeper"); do
                kill -KILL "$pid" 2>/dev/null || true
                gone "$pid" || [ $pass -lt 3 ] || die "process $pid does not end"
            done
        done
        kill -KILL "$keeper"
        gone "$keeper" || die "namespace holder $keeper does not end"
    fi
    rm -f "$instances/$(printf %s "$dir" | cksum | cut -d' ' -f1)"
    if [ -n "${VAPOR_LAB_KEEP:-}" ]; then
        echo "kept: $dir" >&2
    elif [ -e "$dir/.vapor-lab" ]; then
        rm -rf "$dir"
    fi
    hand_over
}

status() {
    if ! holder >/dev/null; then
        echo 'not there'
        return 4
    elif recorded libvirtd.pid >/dev/null; then
        echo 'running'
    else
        echo 'killed'
        return 3
    fi
}

command=${1:-help}
case $command in
    help | -h | --help) usage; exit 0 ;;
    stop-all)
        for link in "$instances"/*; do
            [ -L "$link" ] || continue
            bash "$0" stop "$(readlink "$link")"
        done
        exit 0
        ;;
esac
[ -n "${2:-}" ] || { usage >&2; exit 64; }
dir=$(realpath -m "$2")
case $dir in *[!A-Za-z0-9/._+-]*) die "the path has characters that a libvirt URI or file would need escaped: $dir" 65 ;; esac

case $command in
    __hold) hold ;;
    start) start ;;
    env) holder >/dev/null || die "no instance in $dir" 4; show ;;
    kill) end_libvirtd KILL ;;
    restart) end_libvirtd TERM; start ;;
    status) status ;;
    pid)
        keeper=$(holder) || die "no instance in $dir" 4
        pid=$(cat "/proc/$keeper/root/run/libvirt/qemu/${3:?domain}.pid")
        echo "$pid"
        ;;
    exec) shift 2; enter "$@" ;;
    stop) stop ;;
    *) usage >&2; exit 64 ;;
esac
