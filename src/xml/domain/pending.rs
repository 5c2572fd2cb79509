//! What differs between the running VM and its next boot, in the words of the API.
//!
//! Two definitions of one VM always differ in what exists only while it runs: ports, names of tap
//! devices, aliases, addresses. Those are left out. What remains is what a user changed and has
//! not seen take hold.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{Disk, Nic, Pending, PendingChange, Vm};

/// Kinds of devices that a user adds and removes; the others libvirt adds by itself.
const PLUGGABLE: &[&str] = &[
    "channel",
    "filesystem",
    "hostdev",
    "memory",
    "redirdev",
    "rng",
    "shmem",
    "smartcard",
    "sound",
    "tpm",
    "video",
    "vsock",
    "watchdog",
];

/// The changes that wait for the next boot; none if there are none. `live` is the view of the
/// active XML, `inactive` that of the persistent one.
pub fn pending(live: &Vm, inactive: &Vm) -> Option<Pending> {
    let mut changes = Changes(Vec::new());
    changes.compare("name", &live.name, &inactive.name);
    changes.compare("description", &live.description, &inactive.description);
    changes.compare("memory", &live.memory, &inactive.memory);
    changes.compare("max_memory", &live.max_memory, &inactive.max_memory);
    changes.compare("vcpus", &live.vcpus, &inactive.vcpus);
    changes.compare("max_vcpus", &live.max_vcpus, &inactive.max_vcpus);
    changes.compare("os.type", &live.os.r#type, &inactive.os.r#type);
    changes.compare("os.architecture", &live.os.architecture, &inactive.os.architecture);
    changes.compare("os.machine", &live.os.machine, &inactive.os.machine);
    changes.compare("os.firmware", &live.os.firmware, &inactive.os.firmware);
    changes.compare("os.domain_type", &live.os.domain_type, &inactive.os.domain_type);
    changes.compare("os.variant", &live.os.variant, &inactive.os.variant);
    changes.compare("os.boot", &live.os.boot, &inactive.os.boot);
    changes.compare("labels", &live.labels, &inactive.labels);
    disks(&mut changes, &live.disks, &inactive.disks);
    nics(&mut changes, &live.networks, &inactive.networks);
    let types = |vm: &Vm| vm.graphics.iter().map(|g| g.r#type.clone()).collect::<Vec<_>>();
    changes.compare("graphics", &types(live), &types(inactive));
    changes.compare("devices", &devices(live), &devices(inactive));
    (!changes.0.is_empty()).then_some(Pending { changes: changes.0 })
}

struct Changes(Vec<PendingChange>);

impl Changes {
    fn compare<T: PartialEq + Serialize>(&mut self, field: &str, running: &T, next_boot: &T) {
        if running != next_boot {
            let (running, next_boot) = (json!(running), json!(next_boot));
            self.0.push(PendingChange { field: field.to_owned(), running, next_boot });
        }
    }
}

fn disks(changes: &mut Changes, live: &[Disk], inactive: &[Disk]) {
    for (name, running, next) in by_key(live, inactive, |disk| disk.target.as_str()) {
        let field = |part: &str| format!("disks.{name}.{part}");
        match (running, next) {
            (Some(a), Some(b)) => {
                changes.compare(&field("device"), &a.device, &b.device);
                changes.compare(&field("bus"), &a.bus, &b.bus);
                changes.compare(&field("source"), &a.source, &b.source);
                // libvirt probes the format of a disk that states none, and shows it while running.
                if a.format.is_some() && b.format.is_some() {
                    changes.compare(&field("format"), &a.format, &b.format);
                }
                changes.compare(&field("read_only"), &a.read_only, &b.read_only);
                changes.compare(&field("shareable"), &a.shareable, &b.shareable);
                changes.compare(&field("boot_order"), &a.boot_order, &b.boot_order);
                changes.compare(&field("serial"), &a.serial, &b.serial);
            }
            (a, b) => changes.compare(&format!("disks.{name}"), &disk(a), &disk(b)),
        }
    }
}

fn disk(disk: Option<&Disk>) -> Value {
    disk.map_or(
        Value::Null,
        |disk| json!({"device": disk.device, "bus": disk.bus, "source": disk.source}),
    )
}

fn nics(changes: &mut Changes, live: &[Nic], inactive: &[Nic]) {
    for (name, running, next) in by_key(live, inactive, |nic| nic.mac.as_str()) {
        let field = |part: &str| format!("networks.{name}.{part}");
        match (running, next) {
            (Some(a), Some(b)) => {
                changes.compare(&field("source"), &a.source, &b.source);
                changes.compare(&field("model"), &a.model, &b.model);
                changes.compare(&field("link_up"), &a.link_up, &b.link_up);
                changes.compare(&field("boot_order"), &a.boot_order, &b.boot_order);
            }
            (a, b) => changes.compare(&format!("networks.{name}"), &nic(a), &nic(b)),
        }
    }
}

fn nic(nic: Option<&Nic>) -> Value {
    nic.map_or(Value::Null, |nic| json!({"source": nic.source, "model": nic.model}))
}

/// The devices of both sides side by side, in the order of the running VM, new ones last.
fn by_key<'a, T>(
    live: &'a [T],
    inactive: &'a [T],
    key: impl Fn(&'a T) -> &'a str,
) -> Vec<(&'a str, Option<&'a T>, Option<&'a T>)> {
    let find = |side: &'a [T], name: &str| side.iter().find(|item| key(item) == name);
    let running = live.iter().map(|item| (key(item), Some(item), find(inactive, key(item))));
    let added = inactive
        .iter()
        .filter(|item| find(live, key(item)).is_none())
        .map(|item| (key(item), None, Some(item)));
    running.chain(added).collect()
}

/// How many of each pluggable kind and model there are.
fn devices(vm: &Vm) -> Value {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for device in vm.devices.iter().filter(|device| PLUGGABLE.contains(&device.kind.as_str())) {
        let name = match &device.model {
            Some(model) => format!("{} {model}", device.kind),
            None => device.kind.clone(),
        };
        *counts.entry(name).or_default() += 1;
    }
    json!(counts)
}
