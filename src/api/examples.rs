//! Example bodies, shown by the document. A test holds each to its schema; the fuzzer sends them.

use serde_json::{Value, json};

use crate::authz::Action;

/// The examples of one operation for one content type, in the form of OpenAPI's `examples`.
pub fn of(action: Action, media: &str) -> Value {
    match (action, media) {
        (Action::CreateVm, _) => json!({
            "flat": {"summary": "A small VM with one disk and one NIC", "value": flat()},
            "full": {"summary": "Disks, NICs and boot order in full", "value": full()},
            "cloud": {"summary": "A clone of a cloud image, told its name, users and keys",
                "value": cloud()},
            "ignition": {"summary": "A clone of a Fedora CoreOS image with its Ignition config",
                "value": coreos()},
        }),
        (Action::CreateVmEnhanced, _) => json!({
            "full": {"summary": "Disks, NICs and boot order in full", "value": full()},
        }),
        (Action::CloneVm, _) => json!({
            "copy": {"summary": "A copy with disks of its own",
                "value": {"name": "web2", "start": true}},
            "linked": {"summary": "A clone that shares what was written until now",
                "value": {"name": "web3", "linked": true, "labels": {"tier": "test"}}},
            "elsewhere": {"summary": "Disks in other pools",
                "value": {"name": "web4", "pool": "images",
                    "disks": {"vdb": {"pool": "default", "name": "web4-data.qcow2"}}}},
        }),
        (Action::CreateTemplate, _) => json!({
            "small": {"summary": "The settings of small web servers", "value": {
                "name": "small-web", "min_memory": 512, "settings": {"memory": 1024, "vcpus": 1,
                    "disk_size": 10, "network": {"source": "default"}, "labels": {"tier": "web"}}}},
        }),
        (Action::UpdateTemplate, _) => json!({
            "least": {"summary": "More memory at least", "value": {"min_memory": 1024}},
        }),
        (Action::MakeTemplate, _) => json!({
            "copy": {"summary": "Copies of the VM's disks",
                "value": {"name": "debian-12", "min_memory": 512, "min_disk": 10}},
            "convert": {"summary": "The VM's own disks; the VM is removed",
                "value": {"name": "debian-12", "convert": true}},
        }),
        (Action::CreateVmFromTemplate, _) => json!({
            "linked": {"summary": "Disks on top of the template's",
                "value": {"template": "debian-12", "name": "web7", "memory": 2048, "start": true}},
            "copy": {"summary": "Disks of its own, the first one larger",
                "value": {"template": "debian-12", "name": "web8", "linked": false,
                    "disk_size": 20}},
        }),
        (Action::CloneVmFrom, _) => json!({
            "copy": {"summary": "A copy with disks of its own",
                "value": {"source": "web1", "name": "web2"}},
        }),
        (Action::ReplaceVm | Action::UpdateVm, _) => json!({
            "grow": {"summary": "More memory and a label",
                "value": {"memory": 2048, "labels": {"tier": "web"}}},
            "autostart": {"summary": "Start with the host", "value": {"autostart": true}},
            "disk": {"summary": "A larger disk, live",
                "value": {"disks": [{"target": "vda", "size": 40}]}},
            "limit": {"summary": "At most 10 MiB a second to the guest, and a virtual CPU pinned, live",
                "value": {"networks": [
                    {"mac": "52:54:00:12:34:56", "inbound": {"average": 10240}}],
                    "cpu": {"pinning": [{"vcpu": 0, "cpus": "2-3"}]}}},
            "tune": {"summary": "Another cache and a watchdog, with the next boot",
                "value": {"disks": [{"target": "vda", "cache": "none", "io": "native"}],
                    "devices": {"watchdog": {"action": "reset"}}}},
            "link": {"summary": "Another network, and the cable plugged in, live",
                "value": {"networks": [
                    {"mac": "52:54:00:12:34:56", "source": "default", "link_up": true}]}},
        }),
        (Action::ActOnVm, _) => json!({
            "start": {"summary": "Boot", "value": {"action": "start"}},
            "stop": {"summary": "Ask the guest, and cut the power after a minute",
                "value": {"action": "stop", "timeout": 60, "force": true}},
        }),
        (Action::ReplaceVmXml, "application/xml") => json!({
            "whole": {"summary": "The whole definition", "value": DOMAIN},
        }),
        (Action::ReplaceVmXml, _) => json!({
            "whole": {"summary": "The whole definition", "value": {"xml": DOMAIN}},
        }),
        (Action::CreatePool, _) => json!({
            "dir": {"summary": "A folder, made if it is missing",
                "value": {"name": "images", "type": "dir", "target": {"path": "/srv/images"}}},
            "netfs": {"summary": "An NFS export",
                "value": {"name": "nas", "type": "netfs",
                    "source": {"hosts": [{"name": "nas1.example.org"}], "dir": "/srv/vms",
                        "format": "nfs", "protocol_version": "4.2"},
                    "target": {"path": "/srv/nas"}}},
            "logical": {"summary": "A new LVM volume group on an empty disk",
                "value": {"name": "fast", "type": "logical",
                    "source": {"name": "vg0", "devices": [{"path": "/dev/vdb"}]}, "build": true}},
        }),
        (Action::UpdatePool, _) => json!({
            "autostart": {"summary": "Not with the host", "value": {"autostart": false}},
            "permissions": {"summary": "For one group, while the pool is inactive",
                "value": {"target": {"permissions": {"mode": "0770", "group": 64055}}}},
        }),
        (Action::CreateVolume, _) => json!({
            "qcow2": {"summary": "An empty image of 10 GiB",
                "value": {"name": "data.qcow2", "size": 10, "format": "qcow2"}},
            "reserved": {"summary": "A raw volume with all its room reserved", "value": {
                "name": "data.raw", "capacity_bytes": 1_073_741_824, "format": "raw",
                "preallocation": "falloc"}},
            "linked": {"summary": "An image on top of a base", "value": {"name": "web2.qcow2",
                "size": 20, "backing": {"pool": "default", "volume": "base.qcow2"}}},
        }),
        (Action::ResizeVolume, _) => json!({
            "grow": {"summary": "Grow to 20 GiB", "value": {"size": 20}},
            "shrink": {"summary": "Shrink, and lose what lies beyond",
                "value": {"capacity_bytes": 1_073_741_824, "shrink": true}},
        }),
        (Action::CloneVolume, _) => json!({
            "copy": {"summary": "A copy in another pool",
                "value": {"name": "web1-copy.qcow2", "pool": "images"}},
            "linked": {"summary": "A clone that shares what is not written",
                "value": {"name": "web2.qcow2", "linked": true}},
        }),
        (Action::WipeVolume, _) => json!({
            "zero": {"summary": "Overwrite with zeros", "value": {"algorithm": "zero"}},
        }),
        (Action::RegisterIso, _) => json!({
            "volume": {"summary": "A volume that holds an image",
                "value": {"pool": "default", "volume": "debian-12.iso", "name": "debian-12"}},
        }),
        (Action::ExchangeMedium, _) => json!({
            "insert": {"summary": "Insert a registered image",
                "value": {"action": "insert", "iso": "debian-12"}},
            "volume": {"summary": "Insert a volume into a certain drive",
                "value": {"action": "insert", "target": "sda",
                    "volume": {"pool": "default", "volume": "debian-12.iso"}}},
            "eject": {"summary": "Eject it even if the guest has locked the tray",
                "value": {"action": "eject", "force": true}},
        }),
        (Action::UploadVolume, _) => json!({
            "image": {"summary": "The bytes of an image", "value": "…"},
        }),
        (Action::AppendUpload | Action::AppendIsoUpload, _) => json!({
            "part": {"summary": "The bytes of a part", "value": "…"},
        }),
        (Action::ImportVolume, _) => json!({
            "vmdk": {"summary": "A qcow2 of an uploaded image, which is deleted then",
                "value": {"name": "web1.qcow2", "format": "qcow2", "remove_source": true}},
        }),
        (Action::CreateNetwork, _) => json!({
            "nat": {"summary": "A subnet behind the host, with DHCP and names", "value": nat()},
            "bridge": {"summary": "An existing bridge of the host",
                "value": {"name": "outside", "forward": {"mode": "bridge"}, "bridge": "br0"}},
            "macvtap": {"summary": "Guests beside the host on its own wire",
                "value": {"name": "wire", "forward": {"mode": "bridge", "devices": ["eth0"]}}},
            "sriov": {"summary": "A pool of virtual functions",
                "value": {"name": "fast", "vlan": {"tags": [{"id": 42}]},
                    "forward": {"mode": "hostdev", "physical_function": "eth2"}}},
        }),
        (Action::UpdateNetwork, _) => json!({
            "host": {"summary": "A machine that always gets the same address, at once",
                "value": {"ips": [{"address": "10.20.0.1/24", "dhcp": {
                    "ranges": [{"start": "10.20.0.100", "end": "10.20.0.200"}],
                    "hosts": [{"mac": "52:54:00:00:00:01", "name": "db1", "ip": "10.20.0.10"}]}}]}},
            "mtu": {"summary": "A larger MTU, with the next start", "value": {"mtu": 9000}},
        }),
        _ => json!({}),
    }
}

fn nat() -> Value {
    json!({
        "name": "lab",
        "forward": {"mode": "nat"},
        "domain": {"name": "lab.example", "local_only": true},
        "ips": [
            {"address": "10.20.0.1/24",
                "dhcp": {"ranges": [{"start": "10.20.0.100", "end": "10.20.0.200"}]}},
            {"address": "fd20:2::1/64"},
        ],
        "dns": {"hosts": [{"ip": "10.20.0.1", "hostnames": ["gateway.lab.example"]}]},
    })
}

const DOMAIN: &str = "<domain type='kvm'>\n  <name>web1</name>\n  \
    <memory unit='MiB'>1024</memory>\n  <vcpu>1</vcpu>\n  <os>\n    \
    <type arch='x86_64' machine='q35'>hvm</type>\n  </os>\n</domain>\n";

fn flat() -> Value {
    json!({
        "name": "web1",
        "memory": 1024,
        "vcpus": 1,
        "disk_size": 10,
        "os_type": "linux",
        "network": {"type": "network", "source": "default", "model": "virtio"},
    })
}

fn cloud() -> Value {
    json!({
        "name": "web2",
        "memory": 1024,
        "vcpus": 1,
        "storage": {"disks": [{"action": "clone",
            "source": {"pool": "default", "volume": "debian-12-genericcloud.qcow2"}}]},
        "networks": [{"type": "network", "source": "default"}],
        "cloud_init": {
            "hostname": "web2",
            "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0dP0sY0t9Vm2cUuQ0n me@example"],
            "users": [{"name": "ann", "groups": ["sudo"], "sudo": "ALL=(ALL) NOPASSWD:ALL"}],
            "packages": ["nginx"],
            "runcmd": ["systemctl enable --now nginx", ["touch", "/var/lib/ready"]],
        },
        "start": true,
    })
}

fn coreos() -> Value {
    json!({
        "name": "core1",
        "memory": 2048,
        "vcpus": 2,
        "storage": {"disks": [{"action": "clone",
            "source": {"pool": "default", "volume": "fedora-coreos-qemu.qcow2"}}]},
        "networks": [{"type": "network", "source": "default"}],
        "ignition": {
            "ignition": {"version": "3.4.0"},
            "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0dP0sY0t9Vm2cUuQ0n me@example"]}]},
        },
        "start": true,
    })
}

fn full() -> Value {
    json!({
        "name": "db1",
        "description": "the database",
        "memory": 2048,
        "max_memory": 4096,
        "vcpus": 2,
        "max_vcpus": 4,
        "os": {"type": "linux", "boot": ["hd"]},
        "storage": {
            "default_pool": "default",
            "disks": [
                {"action": "create", "size": 10, "format": "qcow2", "boot_order": 1},
                {"action": "attach", "pool": "default", "volume": "data.qcow2"},
            ],
        },
        "networks": [{"type": "network", "source": "default"}],
        "graphics": [{"type": "vnc"}],
        "labels": {"tier": "db"},
        "start": false,
    })
}
