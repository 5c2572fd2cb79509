//! What differs between the running VM and its next boot, in the words of the API.
//!
//! Two definitions of one VM always differ in what exists only while it runs: ports, names of tap
//! devices, aliases, addresses. Those are left out. What remains is what a user changed and has
//! not seen take hold.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::vm_request::{
    CpuFeature, CpuMode, CpuPin, CpuRequest, DevicesRequest, FeaturePolicy,
};
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
    changes.compare("title", &live.title, &inactive.title);
    changes.compare("description", &live.description, &inactive.description);
    // A guest whose balloon is at rest has all its memory, whatever the definition asks for; it
    // would begin the next boot in the same way.
    let at_rest = live.memory == live.max_memory && live.max_memory == inactive.max_memory;
    if !at_rest {
        changes.compare("memory", &live.memory, &inactive.memory);
    }
    changes.compare("max_memory", &live.max_memory, &inactive.max_memory);
    changes.compare("vcpus", &live.vcpus, &inactive.vcpus);
    changes.compare("max_vcpus", &live.max_vcpus, &inactive.max_vcpus);
    changes.compare("os.type", &live.os.r#type, &inactive.os.r#type);
    changes.compare("os.architecture", &live.os.architecture, &inactive.os.architecture);
    changes.compare("os.machine", &live.os.machine, &inactive.os.machine);
    changes.compare("os.firmware", &live.os.firmware, &inactive.os.firmware);
    changes.compare("os.secure_boot", &live.os.secure_boot, &inactive.os.secure_boot);
    changes.compare("os.enrolled_keys", &live.os.enrolled_keys, &inactive.os.enrolled_keys);
    changes.compare("os.domain_type", &live.os.domain_type, &inactive.os.domain_type);
    changes.compare("os.variant", &live.os.variant, &inactive.os.variant);
    changes.compare("os.boot", &live.os.boot, &inactive.os.boot);
    changes.compare("os.direct_boot", &live.os.direct_boot, &inactive.os.direct_boot);
    cpu(&mut changes, live.cpu.as_deref(), inactive.cpu.as_deref());
    changes.compare("memory_options", &live.memory_options, &inactive.memory_options);
    // libvirt shows where the clock stands now, which says nothing of how it begins.
    if inactive.clock.is_some() {
        changes.compare("clock", &live.clock, &inactive.clock);
    }
    changes.compare("labels", &live.labels, &inactive.labels);
    disks(&mut changes, &live.disks, &inactive.disks);
    nics(&mut changes, &live.networks, &inactive.networks);
    let types = |vm: &Vm| vm.graphics.iter().map(|g| g.r#type.clone()).collect::<Vec<_>>();
    changes.compare("graphics", &types(live), &types(inactive));
    hardware(&mut changes, live.hardware.as_deref(), inactive.hardware.as_deref());
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

/// While a VM runs, libvirt shows the CPU that came of the one that the definition asks for: the
/// model that `host-model` stands for, and every feature that the model turned out to have.
fn cpu(changes: &mut Changes, live: Option<&CpuRequest>, inactive: Option<&CpuRequest>) {
    let usual = CpuRequest::default();
    let (a, b) = (live.unwrap_or(&usual), inactive.unwrap_or(&usual));
    let custom = Some(CpuMode::Custom);
    let came_of = |wanted: Option<CpuMode>| {
        matches!(wanted, None | Some(CpuMode::HostModel)) && a.mode == custom
    };
    if !came_of(b.mode) {
        changes.compare("cpu.mode", &a.mode, &b.mode);
        changes.compare("cpu.model", &a.model, &b.model);
        let features = |of: &CpuRequest| of.features.clone().unwrap_or_default();
        let (running, wanted) = (features(a), features(b));
        if !wanted.iter().all(|wanted| is_held(&running, wanted)) {
            changes.compare("cpu.features", &running, &wanted);
        }
    }
    changes.compare("cpu.topology", &a.topology, &b.topology);
    // Unpinned while it runs, a virtual CPU is pinned to all CPUs of the host.
    let wanted = b.pinning.as_deref().unwrap_or_default();
    let is_wanted = |pin: &&CpuPin| wanted.iter().any(|wanted| wanted.vcpu == pin.vcpu);
    let running: Vec<_> = a.pinning.iter().flatten().filter(is_wanted).cloned().collect();
    changes.compare("cpu.pinning", &running.as_slice(), &wanted);
    changes.compare("cpu.numa", &a.numa, &b.numa);
}

/// Whether a running CPU has a feature as it is asked for.
fn is_held(running: &[CpuFeature], wanted: &CpuFeature) -> bool {
    use FeaturePolicy::{Disable, Forbid, Force, Optional, Require};
    let found = running.iter().find(|found| found.name == wanted.name).map(|found| found.policy);
    match wanted.policy {
        Optional => true,
        Force | Require => matches!(found, Some(Force | Require)),
        Disable | Forbid => matches!(found, None | Some(Disable | Forbid)),
    }
}

/// What the count of devices does not tell.
fn hardware(
    changes: &mut Changes,
    live: Option<&DevicesRequest>,
    inactive: Option<&DevicesRequest>,
) {
    let (Some(a), Some(b)) = (live, inactive) else { return };
    if let (Some(running), Some(next)) = (&a.watchdog, &b.watchdog) {
        changes.compare("devices.watchdog.action", &running.action, &next.action);
    }
    let cid = |of: &DevicesRequest| of.vsock.as_ref().and_then(|vsock| vsock.cid);
    // One that is chosen at each start is shown while the VM runs.
    if cid(b).is_some() {
        changes.compare("devices.vsock.cid", &cid(a), &cid(b));
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
                changes.compare(&field("cache"), &a.cache, &b.cache);
                changes.compare(&field("io"), &a.io, &b.io);
                changes.compare(&field("discard"), &a.discard, &b.discard);
                changes.compare(&field("iothread"), &a.iothread, &b.iothread);
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
                // A running NIC also has what its network's port group says.
                if b.vlan.is_some() {
                    changes.compare(&field("vlan"), &a.vlan, &b.vlan);
                }
                if b.inbound.is_some() {
                    changes.compare(&field("inbound"), &a.inbound, &b.inbound);
                }
                if b.outbound.is_some() {
                    changes.compare(&field("outbound"), &a.outbound, &b.outbound);
                }
                if b.isolated.is_some() {
                    changes.compare(&field("isolated"), &a.isolated, &b.isolated);
                }
                if b.mode.is_some() {
                    changes.compare(&field("mode"), &a.mode, &b.mode);
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::domain::edit::{self, DomainEdit};
    use crate::xml::domain::view;

    const LIVE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/libvirt-live.xml"));
    const INACTIVE: &str = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/corpus/libvirt-live-inactive.xml"
    ));

    fn changes(inactive: &str) -> Vec<(String, Value, Value)> {
        let (live, inactive) = (view::parse(LIVE).unwrap(), view::parse(inactive).unwrap());
        let changes = pending(&live, &inactive).map(|pending| pending.changes).unwrap_or_default();
        changes.into_iter().map(|c| (c.field, c.running, c.next_boot)).collect()
    }

    #[test]
    fn a_running_vm_that_nobody_changed_has_nothing_pending() {
        assert_eq!(changes(INACTIVE), []);
    }

    #[test]
    fn each_edit_is_pending_until_the_next_boot() {
        let edit = DomainEdit {
            description: Some("new".to_owned()),
            max_memory_mib: Some(512),
            memory_mib: Some(300),
            vcpus: Some(2),
            max_vcpus: Some(3),
            boot: Some(vec![crate::model::vm_request::BootDevice::Network]),
            labels: Some(BTreeMap::new()),
            ..DomainEdit::default()
        };
        let fields: Vec<_> = changes(&edit::apply(INACTIVE, &edit).unwrap());
        assert_eq!(
            fields,
            [
                ("description".into(), json!("first line\nsecond <line>"), json!("new")),
                ("memory".into(), json!(256), json!(300)),
                ("max_memory".into(), json!(256), json!(512)),
                ("vcpus".into(), json!(1), json!(2)),
                ("max_vcpus".into(), json!(2), json!(3)),
                ("os.boot".into(), json!(["hd", "cdrom"]), json!(["network"])),
                ("labels".into(), json!({"tier": "web"}), json!({})),
            ]
        );
    }

    #[test]
    fn disks_and_nics_are_matched_by_target_and_address() {
        let inactive = INACTIVE
            .replace("/images/d1.qcow2", "/images/d2.qcow2")
            .replace("dev='sda'", "dev='sdb'")
            .replace("52:54:00:01:02:03", "52:54:00:01:02:04")
            .replace("<rng model='virtio'>", "<rng model='virtio-transitional'>");
        let fields: Vec<_> = changes(&inactive).into_iter().map(|(field, ..)| field).collect();
        assert_eq!(
            fields,
            [
                "disks.vda.source",
                "disks.sda",
                "disks.sdb",
                "networks.52:54:00:01:02:03",
                "networks.52:54:00:01:02:04",
                "devices",
            ]
        );
        let added = changes(&inactive).into_iter().find(|c| c.0 == "disks.sdb").unwrap();
        assert_eq!(added.1, Value::Null);
        assert_eq!(added.2["device"], "cdrom");
    }

    #[test]
    fn a_link_and_an_inflated_balloon_are_compared() {
        let mut live = view::parse(LIVE).unwrap();
        let mut inactive = live.clone();
        inactive.networks[0].link_up = false;
        live.memory = 200;
        inactive.memory = 192;
        let fields: Vec<_> =
            pending(&live, &inactive).unwrap().changes.into_iter().map(|c| c.field).collect();
        assert_eq!(fields, ["memory", "networks.52:54:00:01:02:03.link_up"]);
    }
}
