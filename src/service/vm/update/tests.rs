//! The engine as a table: each field, and when it takes hold in a stopped, in a running and in a
//! transient VM.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::decide::{Decision, Facts, decide};
use crate::error::{Kind, Result};
use crate::model::host::LibvirtStatus;
use crate::model::{Effect, VmState};
use crate::service::inventory::Picture;
use crate::xml::capabilities::{parse_capabilities, parse_domain_capabilities};
use crate::xml::domain::{edit, view};

const CAPABILITIES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/host/capabilities-qemu.xml"));
const Q35: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/host/domcapabilities-q35.xml"));

const VM: &str = "<domain type='qemu'><name>a</name>\
<uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid><memory unit='MiB'>512</memory>\
<vcpu current='2'>4</vcpu><os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type>\
<boot dev='hd'/></os><cpu mode='maximum'/><clock offset='utc'/><devices>\
<disk type='file' device='disk'><driver name='qemu' type='raw' discard='unmap'/>\
<source file='/a'/><target dev='vda' bus='virtio'/></disk>\
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>\
<interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/>\
<model type='virtio'/></interface>\
<graphics type='vnc'/><video><model type='virtio'/></video>\
<watchdog model='itco' action='reset'/><memballoon model='virtio'/></devices></domain>";

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Stopped,
    Running,
    Transient,
}

fn picture() -> Picture {
    let mut capabilities = parse_capabilities(CAPABILITIES).unwrap();
    capabilities.preferred = parse_domain_capabilities(Q35).unwrap();
    let libvirt = LibvirtStatus {
        uri: "test:///".to_owned(),
        connected: true,
        since: Timestamp::UNIX_EPOCH,
        reason: None,
        version: None,
        hypervisor_version: None,
    };
    Picture { capabilities: Some(std::sync::Arc::new(capabilities)), ..Picture::empty(libvirt) }
}

fn facts(xml: &str, state: State) -> Facts {
    let mut now = view::parse(xml).unwrap();
    now.persistent = state != State::Transient;
    now.state = if state == State::Stopped { VmState::Shutoff } else { VmState::Running };
    let next = view::parse(xml).unwrap();
    Facts { now, next, running: xml.to_owned() }
}

fn decided(xml: &str, state: State, request: &Value) -> Result<Decision> {
    let request = serde_json::from_value(request.clone()).unwrap();
    decide(&picture(), &[], &facts(xml, state), &request)
}

#[test]
fn every_field_takes_hold_when_the_table_says() {
    use Effect::{Impossible, Live, NextBoot};
    let disk = |change: Value| {
        let mut disk = json!({"target": "vda"});
        disk.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "disks": [disk] })
    };
    let nic = |change: Value| {
        let mut nic = json!({"mac": "52:54:00:00:00:01"});
        nic.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!({ "networks": [nic] })
    };
    let mac = "networks.52:54:00:00:00:01";
    let live = (Live, Live);
    let boot = (NextBoot, Impossible);
    let never = (Impossible, Impossible);
    // The request, the field, and the effect in a running and in a transient VM; in a stopped one it
    // is live, unless it is impossible everywhere.
    let table: Vec<(Value, String, (Effect, Effect))> = vec![
        (json!({"title": "A title"}), "title".into(), live),
        (json!({"description": "d"}), "description".into(), live),
        (json!({"labels": {"a": "b"}}), "labels".into(), live),
        (json!({"autostart": true}), "autostart".into(), (Live, Impossible)),
        (json!({"memory": 256}), "memory".into(), live),
        (json!({"max_memory": 1024}), "max_memory".into(), boot),
        (json!({"vcpus": 3}), "vcpus".into(), live),
        (json!({"vcpus": 1}), "vcpus".into(), boot),
        (json!({"max_vcpus": 8}), "max_vcpus".into(), boot),
        (json!({"boot": ["network"]}), "boot".into(), boot),
        (disk(json!({"read_only": true})), "disks.vda.read_only".into(), boot),
        (disk(json!({"serial": "s"})), "disks.vda.serial".into(), boot),
        (disk(json!({"cache": "none"})), "disks.vda.cache".into(), boot),
        (disk(json!({"io": "threads"})), "disks.vda.io".into(), boot),
        (disk(json!({"discard": "ignore"})), "disks.vda.discard".into(), boot),
        (disk(json!({"iothread": 1})), "disks.vda.iothread".into(), boot),
        (disk(json!({"bus": "sata"})), "disks.vda.bus".into(), boot),
        (disk(json!({"bus": "sata"})), "disks.vda.target".into(), boot),
        (disk(json!({"boot_order": 1})), "disks.vda.boot_order".into(), boot),
        (nic(json!({"link_up": false})), format!("{mac}.link_up"), live),
        (nic(json!({"source": "br1"})), format!("{mac}.source"), live),
        (nic(json!({"model": "e1000e"})), format!("{mac}.model"), boot),
        (nic(json!({"inbound": {"average": 9}})), format!("{mac}.inbound"), live),
        (nic(json!({"outbound": {"average": 9}})), format!("{mac}.outbound"), live),
        (nic(json!({"isolated": true})), format!("{mac}.isolated"), live),
        (nic(json!({"boot_order": 1})), format!("{mac}.boot_order"), boot),
        (json!({"os": {"machine": "pc-q35-9.1"}}), "os.machine".into(), boot),
        (json!({"os": {"machine": "pc"}}), "os.machine".into(), never),
        (json!({"os": {"firmware": "efi"}}), "os.firmware".into(), boot),
        (json!({"os": {"secure_boot": true}}), "os.secure_boot".into(), boot),
        (json!({"cpu": {"model": "486"}}), "cpu.mode".into(), boot),
        (json!({"cpu": {"model": "486"}}), "cpu.model".into(), boot),
        (
            json!({"cpu": {"features": [{"name": "svm", "policy": "disable"}]}}),
            "cpu.features".into(),
            boot,
        ),
        (json!({"cpu": {"topology": {"sockets": 2, "cores": 2}}}), "cpu.topology".into(), boot),
        (json!({"cpu": {"numa": [{"cpus": "0-3", "memory": 512}]}}), "cpu.numa".into(), boot),
        (json!({"cpu": {"pinning": [{"vcpu": 0, "cpus": "0"}]}}), "cpu.pinning".into(), live),
        (json!({"memory_options": {"hugepages": true}}), "memory_options.hugepages".into(), boot),
        (json!({"memory_options": {"shared": true}}), "memory_options.shared".into(), boot),
        (
            json!({"memory_options": {"ballooning": false}}),
            "memory_options.ballooning".into(),
            boot,
        ),
        (json!({"clock": {"offset": "localtime"}}), "clock".into(), boot),
        (json!({"graphics": []}), "graphics".into(), boot),
        (json!({"devices": {"video": "vga"}}), "devices.video".into(), boot),
        (json!({"devices": {"sound": "ich9"}}), "devices.sound".into(), boot),
        (json!({"devices": {"watchdog": {"action": "pause"}}}), "devices.watchdog".into(), boot),
        (json!({"devices": {"watchdog": {"model": "none"}}}), "devices.watchdog".into(), never),
        (json!({"devices": {"rng": true}}), "devices.rng".into(), boot),
        (json!({"devices": {"vsock": {"cid": 7}}}), "devices.vsock".into(), boot),
        (json!({"devices": {"pci": ["0000:03:00.0"]}}), "devices.pci".into(), boot),
        (json!({"os": {"variant": "http://debian.org/debian/12"}}), "os.variant".into(), boot),
        (json!({"tpm": true}), "tpm".into(), boot),
    ];
    for (request, field, (running, transient)) in table {
        let stopped = if running == Impossible { Impossible } else { Live };
        let states =
            [(State::Stopped, stopped), (State::Running, running), (State::Transient, transient)];
        for (state, wanted) in states {
            let decision = decided(VM, state, &request).unwrap_or_else(|error| {
                panic!("{request} of a {state:?} VM: {error:?}");
            });
            let change = decision.changes.iter().find(|change| change.field == field);
            let change = change.unwrap_or_else(|| panic!("{request}: {:?}", decision.changes));
            assert_eq!(change.effect, wanted, "{request} of a {state:?} VM: {change:?}");
            let explained = change.reason.is_some();
            assert_eq!(explained, wanted != Live, "{request} of a {state:?} VM: {change:?}");
        }
    }
}

#[test]
fn what_is_so_already_changes_nothing() {
    let same = json!({"memory": 512, "vcpus": 2, "boot": ["hd"], "title": "", "labels": {},
        "disks": [{"target": "vda", "discard": "unmap", "bus": "virtio", "iothread": 0,
            "boot_order": 0}],
        "networks": [{"mac": "52:54:00:00:00:01", "inbound": {"average": 0}, "isolated": false,
            "vlan": 0, "link_up": true}],
        "os": {"machine": "pc-q35-10.0", "firmware": "bios", "secure_boot": false},
        "cpu": {"mode": "maximum", "features": [], "pinning": [], "numa": []},
        "memory_options": {"hugepages": false, "ballooning": true},
        "clock": {"offset": "utc"}, "graphics": [{"type": "vnc"}], "tpm": false,
        "devices": {"video": "virtio", "sound": "none", "rng": false,
            "watchdog": {"action": "reset"}}});
    for state in [State::Stopped, State::Running, State::Transient] {
        let decision = decided(VM, state, &same).unwrap();
        assert!(decision.changes.is_empty(), "{state:?}: {:?}", decision.changes);
        assert_eq!(decision.config, crate::xml::domain::edit::DomainEdit::default());
    }
}

#[test]
fn what_contradicts_itself_or_the_vm_is_refused_with_its_field() {
    for (request, field) in [
        (json!({"disks": [{"target": "vda", "io": "native"}]}), "disks[0].io"),
        (json!({"disks": [{"target": "vda", "bus": "sata", "iothread": 1}]}), "disks[0].iothread"),
        (json!({"disks": [{"target": "sda", "bus": "virtio"}]}), "disks[0].bus"),
        (json!({"disks": [{"target": "vda", "bus": "ide"}]}), "disks[0].bus"),
        (json!({"boot": ["hd"], "disks": [{"target": "vda", "boot_order": 1}]}), "boot"),
        (
            json!({"disks": [{"target": "vda", "boot_order": 1}],
                "networks": [{"mac": "52:54:00:00:00:01", "boot_order": 1}]}),
            "networks.52:54:00:00:00:01.boot_order",
        ),
        (
            json!({"networks": [{"mac": "52:54:00:00:00:01",
                "inbound": {"average": 9, "peak": 3}}]}),
            "networks[0].inbound.peak",
        ),
        (
            json!({"networks": [{"mac": "52:54:00:00:00:01", "inbound": {"average": 0, "peak": 3}}]}),
            "networks[0].inbound",
        ),
        (json!({"networks": [{"mac": "52:54:00:00:00:01", "vlan": 7}]}), "networks[0].vlan"),
        (json!({"networks": [{"mac": "52:54:00:00:00:01", "mode": "vepa"}]}), "networks[0].mode"),
        (json!({"os": {"machine": "pc-q35-0.1"}}), "os.machine"),
        (json!({"os": {"firmware": "bios", "secure_boot": true}}), "os.secure_boot"),
        (json!({"os": {"firmware": "efi", "enrolled_keys": true}}), "os.enrolled_keys"),
        (json!({"cpu": {"topology": {"sockets": 3, "cores": 1}}}), "cpu.topology"),
        (json!({"cpu": {"model": "no-such-cpu"}}), "cpu.model"),
        (json!({"cpu": {"pinning": [{"vcpu": 9, "cpus": "0"}]}}), "cpu.pinning[0].vcpu"),
        (json!({"cpu": {"pinning": [{"vcpu": 0, "cpus": "900"}]}}), "cpu.pinning[0].cpus"),
        (json!({"cpu": {"numa": [{"cpus": "0-3", "memory": 1}]}}), "cpu.numa"),
        (
            json!({"memory": 256, "max_memory": 512, "memory_options": {"ballooning": false}}),
            "memory_options.ballooning",
        ),
        (
            json!({"memory_options": {"hugepages": false, "hugepage_size": 2048}}),
            "memory_options.hugepage_size",
        ),
        (json!({"memory_options": {"hugepage_size": 65}}), "memory_options.hugepage_size"),
        (json!({"clock": {"offset": "timezone"}}), "clock.timezone"),
        (json!({"graphics": [{"type": "none"}, {"type": "vnc"}]}), "graphics"),
        (json!({"devices": {"video": "no-such-video"}}), "devices.video"),
        (json!({"devices": {"vsock": {"cid": 1}}}), "devices.vsock.cid"),
    ] {
        let error =
            decided(VM, State::Stopped, &request).map(|_| ()).expect_err(&request.to_string());
        assert_eq!(error.details()["fields"][0]["field"], field, "{request}: {error:?}");
    }
}

#[test]
fn a_firmware_with_variables_and_a_tpm_stay() {
    let efi = VM
        .replace("<os>", "<os firmware='efi'>")
        .replace("<boot dev='hd'/>", "<nvram>/n/a_VARS.fd</nvram><boot dev='hd'/>")
        .replace("<graphics", "<tpm model='tpm-crb'><backend type='emulator'/></tpm><graphics");
    for (request, field) in [
        (json!({"os": {"firmware": "bios"}}), "os.firmware"),
        (json!({"os": {"secure_boot": true}}), "os.secure_boot"),
        (json!({"tpm": false}), "tpm"),
    ] {
        let decision = decided(&efi, State::Stopped, &request).unwrap();
        assert_eq!(decision.changes[0].field, field);
        assert_eq!(decision.changes[0].effect, Effect::Impossible, "{request}");
    }
    let same = json!({"os": {"firmware": "uefi"}, "tpm": true});
    assert!(decided(&efi, State::Stopped, &same).unwrap().changes.is_empty());
    let model = json!({"tpm": {"model": "tpm-tis"}});
    assert_eq!(decided(&efi, State::Running, &model).unwrap().changes[0].effect, Effect::NextBoot);
}

#[test]
fn a_disk_that_changes_its_bus_gets_the_next_free_target() {
    let request = json!({"disks": [{"target": "vda", "bus": "scsi"}]});
    let decision = decided(VM, State::Stopped, &request).unwrap();
    let (_, target) = decision.config.disks["vda"].bus.as_ref().unwrap();
    assert_eq!(target, "sdb", "sda is the CD drive's");
}

#[test]
fn unpinning_a_running_cpu_lets_it_run_everywhere_again() {
    let pinned = VM.replace("<os>", "<cputune><vcpupin vcpu='0' cpuset='0'/></cputune><os>");
    let request = json!({"cpu": {"pinning": []}});
    let decision = decided(&pinned, State::Running, &request).unwrap();
    let [pin] = decision.live.pins.as_slice() else { panic!("{:?}", decision.live.pins) };
    assert_eq!((pin.vcpu, pin.old.len()), (0, 1));
    assert!(pin.new.len() > 1, "{pin:?}");
    assert_eq!(decision.config.cpu.pins, Some(Vec::new()));
}

#[test]
fn a_kernel_is_taken_away_and_comes_with_its_parts() {
    let with = VM.replace("<boot dev='hd'/>", "<kernel>/k</kernel><cmdline>a=b</cmdline>");
    let gone = decided(&with, State::Running, &json!({"os": {"direct_boot": {}}})).unwrap();
    let [change] = gone.changes.as_slice() else { panic!("{:?}", gone.changes) };
    assert_eq!((change.field.as_str(), change.effect), ("os.direct_boot", Effect::NextBoot));
    assert_eq!(change.from, json!({"kernel": "/k", "cmdline": "a=b"}));
    let none = decided(VM, State::Running, &json!({"os": {"direct_boot": {}}})).unwrap();
    assert!(none.changes.is_empty());
    let half = json!({"os": {"direct_boot": {"cmdline": "a=b"}}});
    assert_eq!(decided(VM, State::Stopped, &half).unwrap_err().kind(), Kind::Impossible);
}

#[test]
fn directories_are_shared_through_shared_memory() {
    let root = tempfile::tempdir().unwrap();
    let source = root.path().canonicalize().unwrap();
    let share = json!([{"source": source, "tag": "data", "read_only": true}]);
    let request = json!({"devices": {"filesystems": share}});
    assert_eq!(decided(VM, State::Stopped, &request).unwrap_err().kind(), Kind::NotSupported);
    let within = |xml: &str, request: &Value| {
        let request = serde_json::from_value(request.clone()).unwrap();
        decide(&picture(), std::slice::from_ref(&source), &facts(xml, State::Running), &request)
    };
    let decision = within(VM, &request).unwrap();
    let fields: Vec<&str> = decision.changes.iter().map(|change| change.field.as_str()).collect();
    assert_eq!(fields, ["memory_options.shared", "devices.filesystems"]);
    let xml = edit::apply(VM, &decision.config).unwrap();
    assert!(within(&xml, &request).unwrap().changes.is_empty(), "it is so now: {xml}");
    let alone = json!({"memory_options": {"shared": false}});
    assert_eq!(within(&xml, &alone).unwrap_err().kind(), Kind::Impossible);
    let none = json!({"devices": {"filesystems": []}, "memory_options": {"shared": false}});
    let xml = edit::apply(&xml, &within(&xml, &none).unwrap().config).unwrap();
    assert!(!xml.contains("virtiofs") && !xml.contains("shared"), "{xml}");
}
