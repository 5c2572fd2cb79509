//! Bodies and definitions of VMs that run the lab's tiny guest.

use serde_json::{Value, json};

use super::Lab;

/// The full body: the tiny guest booted directly, one new disk in `lab`, one NIC on `lab`.
pub fn body(name: &str) -> Value {
    body_with(name, "")
}

/// The same, with further words for the guest's command line. Its kernel uses one processor, however
/// many the machine has: QEMU's emulation of several loses an interrupt now and then, and such a guest
/// waits for ever (both halted, the local APIC with its timer in service and in request at once).
pub fn body_with(name: &str, words: &str) -> Value {
    json!({
        "name": name,
        "memory": 256,
        "vcpus": 1,
        "os": {"direct_boot": {
            "kernel": {"pool": "guest", "volume": "vmlinuz"},
            "initrd": {"pool": "guest", "volume": "initrd.img"},
            "cmdline": format!("console=ttyS0 maxcpus=1 vapor.hostname={name} {words}"),
        }},
        "storage": {"default_pool": "lab", "disks": [{"action": "create", "size": 1}]},
        "networks": [{"type": "network", "source": "lab"}],
        "graphics": [{"type": "none"}],
    })
}

/// The smallest body of a machine that boots nothing: it runs, deaf to everything.
pub fn empty_body(name: &str) -> Value {
    json!({"name": name, "memory": 64, "vcpus": 1, "graphics": [{"type": "none"}]})
}

/// A definition of the tiny guest by another hand than Vapor's, with elements Vapor does not know.
pub fn foreign_xml(lab: &Lab, name: &str) -> String {
    let (kernel, initrd) = (lab.guest_file("vmlinuz"), lab.guest_file("initrd.img"));
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <title>by hand</title>
  <metadata>
    <other:thing xmlns:other='http://other.example/1.0' kept='yes'><other:deep>a &amp; b</other:deep></other:thing>
  </metadata>
  <memory unit='MiB'>256</memory>
  <vcpu current='1'>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 vapor.hostname={name}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
  <devices>
    <interface type='network'><source network='lab'/><model type='virtio'/></interface>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <serial type='pty'/>
    <watchdog model='itco' action='none'/>
  </devices>
  <qemu:commandline>
    <qemu:env name='VAPOR_TEST' value='kept'/>
  </qemu:commandline>
</domain>"
    )
}

/// A VM without what a running guest changes by itself, as it brings up its interfaces, and without
/// the version, which counts that too.
pub fn without_runtime(vm: &Value) -> Value {
    let mut vm = vm.clone();
    let fields = vm.as_object_mut().expect("an object");
    for field in ["runtimeDetails", "generation", "updated_at"] {
        assert!(fields.remove(field).is_some(), "no {field} in {fields:?}");
    }
    vm
}
