//! Example bodies, shown by the document. A test holds each to its schema; the fuzzer sends them.

use serde_json::{Value, json};

use crate::authz::Action;

/// The examples of one operation for one content type, in the form of OpenAPI's `examples`.
pub fn of(action: Action, media: &str) -> Value {
    match (action, media) {
        (Action::CreateVm, _) => json!({
            "flat": {"summary": "A small VM with one disk and one NIC", "value": flat()},
            "full": {"summary": "Disks, NICs and boot order in full", "value": full()},
        }),
        (Action::CreateVmEnhanced, _) => json!({
            "full": {"summary": "Disks, NICs and boot order in full", "value": full()},
        }),
        (Action::ReplaceVm | Action::UpdateVm, _) => json!({
            "grow": {"summary": "More memory and a label",
                "value": {"memory": 2048, "labels": {"tier": "web"}}},
            "autostart": {"summary": "Start with the host", "value": {"autostart": true}},
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
        (Action::CreateVolume, _) => json!({
            "qcow2": {"summary": "An empty image of 10 GiB",
                "value": {"name": "data.qcow2", "size": 10, "format": "qcow2"}},
        }),
        _ => json!({}),
    }
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
