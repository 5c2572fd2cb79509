//! What of a definition only the reply about one VM shows: how disks and NICs are tuned, processors,
//! memory, clock and single devices, in the words of creation.
//!
//! What creation has no word for (an offset of the clock in seconds, a CPU feature without a
//! policy that it knows) is left out, so that what is shown could be asked for as it stands.

use crate::model::vm_request::{
    Bandwidth, ClockOffset, ClockRequest, CpuFeature, CpuMode, CpuPin, CpuRequest, CpuTopology,
    DevicesRequest, DirectMode, FeaturePolicy, FilesystemRequest, MemoryRequest, NumaRequest,
    PciAddress, SoundModel, VsockRequest, WatchdogAction, WatchdogModel, WatchdogRequest,
};
use crate::model::{ResourceName, Vm};
use crate::xml::tree::Element;
use crate::xml::units;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Fills in what concerns the VM as a whole.
pub(super) fn read(domain: &Element<'_>, vm: &mut Vm) {
    vm.cpu = cpu(domain).map(Box::new);
    vm.memory_options = Some(memory(domain)).filter(|found| *found != MemoryRequest::default());
    vm.clock = clock(domain);
    let hardware = domain.child("devices").map(hardware);
    vm.hardware = hardware.filter(|found| *found != DevicesRequest::default()).map(Box::new);
}

/// An attribute of a disk's driver.
pub(super) fn driver<T>(
    disk: &Element<'_>,
    name: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    read(&disk.child("driver")?.attr(name)?)
}

/// How a direct NIC shares its device: libvirt's own default is `vepa`.
pub(super) fn mode(nic: &Element<'_>) -> Option<DirectMode> {
    let direct = nic.attr("type").as_deref() == Some("direct");
    let source = nic.child("source").filter(|source| direct && source.attr("dev").is_some())?;
    source.attr("mode").map_or(Some(DirectMode::Vepa), |word| DirectMode::of(&word))
}

/// The tag, where there is one alone.
pub(super) fn vlan(nic: &Element<'_>) -> Option<u16> {
    let mut tags = nic.child("vlan")?.children("tag");
    let tag = tags.next().filter(|_| tags.next().is_none())?;
    tag.attr("id")?.parse().ok()
}

/// The limit of one direction. libvirt's unit is the KiB, too.
pub(super) fn limit(nic: &Element<'_>, side: &str) -> Option<Bandwidth> {
    let side = nic.child("bandwidth")?.child(side)?;
    let number = |name: &str| side.attr(name)?.parse().ok().filter(|number: &u64| *number > 0);
    Some(Bandwidth { average: number("average")?, peak: number("peak"), burst: number("burst") })
}

fn cpu(domain: &Element<'_>) -> Option<CpuRequest> {
    let mut found = CpuRequest::default();
    if let Some(cpu) = domain.child("cpu") {
        let text = cpu.find_text("model");
        found.model = text.and_then(|text| text.trim().parse::<ResourceName>().ok());
        found.mode = cpu.attr("mode").and_then(|word| CpuMode::of(&word));
        if found.mode.is_none() && found.model.is_some() {
            found.mode = Some(CpuMode::Custom);
        }
        if found.mode != Some(CpuMode::Custom) {
            found.model = None;
        }
        let features = cpu.children("feature").filter_map(feature).collect();
        found.features = some(features);
        found.topology = cpu.child("topology").and_then(topology);
        let cells = cpu.child("numa").into_iter().flat_map(|numa| numa.children("cell"));
        found.numa = some(cells.filter_map(cell).collect());
    }
    let pins = domain.child("cputune").into_iter().flat_map(|tune| tune.children("vcpupin"));
    found.pinning = some(pins.filter_map(pin).collect());
    Some(found).filter(|found| *found != CpuRequest::default())
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn feature(element: &Element<'_>) -> Option<CpuFeature> {
    let policy = match element.attr("policy") {
        Some(word) => FeaturePolicy::of(&word)?,
        None => FeaturePolicy::Require,
    };
    Some(CpuFeature { name: element.attr("name")?.into_owned(), policy })
}

fn topology(element: &Element<'_>) -> Option<CpuTopology> {
    let number = |name: &str| element.attr(name).and_then(|number| number.parse::<u32>().ok());
    Some(CpuTopology {
        sockets: number("sockets")?,
        dies: number("dies").filter(|dies| *dies > 1),
        cores: number("cores")?,
        threads: number("threads").filter(|threads| *threads > 1),
    })
}

fn cell(element: &Element<'_>) -> Option<NumaRequest> {
    let memory = element.attr("memory")?;
    let bytes = units::bytes(&memory, element.attr("unit").as_deref(), KIB)?;
    let cpus = cpus(&element.attr("cpus")?)?;
    Some(NumaRequest { cpus, memory: bytes.div_ceil(MIB) })
}

fn pin(element: &Element<'_>) -> Option<CpuPin> {
    let vcpu = element.attr("vcpu")?.parse().ok().filter(|vcpu| *vcpu < 1024)?;
    Some(CpuPin { vcpu, cpus: cpus(&element.attr("cpuset")?)? })
}

/// A list of CPUs, unless it leaves some out again (`^3`).
fn cpus(text: &str) -> Option<String> {
    let plain = text.len() <= 256 && text.chars().all(|c| c.is_ascii_digit() || "-,".contains(c));
    plain.then(|| text.to_owned())
}

fn memory(domain: &Element<'_>) -> MemoryRequest {
    let backing = domain.child("memoryBacking");
    let pages = backing.and_then(|backing| backing.child("hugepages"));
    let size = pages.and_then(|pages| pages.child("page")).and_then(|page| {
        let bytes = units::bytes(&page.attr("size")?, page.attr("unit").as_deref(), KIB)?;
        Some(bytes / KIB)
    });
    let access = backing.and_then(|backing| backing.find_attr("access", "mode"));
    let balloon = domain.find("devices/memballoon").and_then(|balloon| balloon.attr("model"));
    MemoryRequest {
        hugepages: pages.map(|_| true),
        hugepage_size: size,
        shared: (access.as_deref() == Some("shared")).then_some(true),
        ballooning: balloon.map(|model| model != "none"),
    }
}

fn clock(domain: &Element<'_>) -> Option<ClockRequest> {
    let clock = domain.child("clock")?;
    let offset = ClockOffset::of(&clock.attr("offset")?)?;
    let timezone = clock.attr("timezone").map(|zone| zone.into_owned());
    Some(ClockRequest { offset: Some(offset), timezone })
}

fn hardware(devices: &Element<'_>) -> DevicesRequest {
    let mut found = DevicesRequest::default();
    let (mut filesystems, mut pci) = (Vec::new(), Vec::new());
    for device in devices.elements().filter(|device| device.namespace().is_none()) {
        let model = device.attr("model");
        match device.name() {
            "video" if found.video.is_none() => {
                let model = device.find_attr("model", "type");
                found.video = model.and_then(|model| model.parse().ok());
            }
            "sound" if found.sound.is_none() => {
                found.sound = model.and_then(|model| SoundModel::of(&model));
            }
            "watchdog" => {
                let action = device.attr("action").and_then(|word| WatchdogAction::of(&word));
                let model = model.and_then(|model| WatchdogModel::of(&model));
                // Every q35 machine has an itco; another one is there by request.
                if found.watchdog.is_none() || model != Some(WatchdogModel::Itco) {
                    let read = |model| WatchdogRequest { model: Some(model), action };
                    found.watchdog = model.map(read).or(found.watchdog);
                }
            }
            "rng" => found.rng = Some(true),
            "vsock" => {
                let auto = device.find_attr("cid", "auto").as_deref() == Some("yes");
                let cid = device.find_attr("cid", "address").filter(|_| !auto);
                found.vsock = Some(VsockRequest { cid: cid.and_then(|cid| cid.parse().ok()) });
            }
            "filesystem" => filesystems.extend(filesystem(device)),
            "hostdev" => pci.extend(hostdev(device)),
            _ => {}
        }
    }
    found.filesystems = some(filesystems);
    found.pci = some(pci);
    found
}

/// A directory that is shared through virtiofs, if the device is one.
pub(in crate::xml::domain) fn filesystem(element: &Element<'_>) -> Option<FilesystemRequest> {
    let virtiofs = element.find_attr("driver", "type").as_deref() == Some("virtiofs");
    Some(FilesystemRequest {
        source: element.find_attr("source", "dir").filter(|_| virtiofs)?,
        tag: element.find_attr("target", "dir")?,
        read_only: element.child("readonly").is_some(),
    })
}

/// A PCI device of the host, if the device is one.
pub(in crate::xml::domain) fn hostdev(element: &Element<'_>) -> Option<PciAddress> {
    let pci = element.attr("type").as_deref() == Some("pci");
    let address = element.find("source/address").filter(|_| pci)?;
    PciAddress::try_from(super::pci_address(address)?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parse;

    #[test]
    fn what_creation_can_set_is_read_in_its_words() {
        let vm = parse(
            "<domain type='kvm'><name>a</name><title>A &lt;one&gt;</title><vcpu>4</vcpu>\
<memoryBacking><hugepages><page size='2' unit='M'/></hugepages><access mode='shared'/></memoryBacking>\
<cputune><vcpupin vcpu='0' cpuset='0-1'/><vcpupin vcpu='1' cpuset='0-3,^1'/></cputune>\
<cpu mode='custom' match='exact'><model fallback='forbid'>qemu64</model>\
<topology sockets='1' dies='1' cores='4' threads='1'/><feature policy='disable' name='svm'/>\
<numa><cell id='0' cpus='0-3' memory='262144' unit='KiB'/></numa></cpu>\
<clock offset='timezone' timezone='Europe/Berlin'/><devices>\
<disk type='file' device='disk'><driver name='qemu' cache='none' io='native' discard='unmap' \
iothread='2'/><target dev='vda' bus='virtio'/></disk>\
<interface type='direct'><mac address='52:54:00:00:00:01'/><source dev='eth0' mode='private'/>\
<bandwidth><inbound average='10' peak='20'/><outbound average='5'/></bandwidth>\
<vlan><tag id='7'/></vlan><port isolated='yes'/></interface>\
<video><model type='vga'/></video><sound model='ich9'/><watchdog model='itco' action='pause'/>\
<rng model='virtio'/><vsock><cid auto='no' address='9'/></vsock>\
<memballoon model='none'/></devices></domain>",
        )
        .unwrap();
        assert_eq!(vm.title.as_deref(), Some("A <one>"));
        let cpu = json!(vm.cpu);
        assert_eq!((&cpu["mode"], &cpu["model"]), (&json!("custom"), &json!("qemu64")));
        assert_eq!(cpu["features"], json!([{"name": "svm", "policy": "disable"}]));
        assert_eq!(cpu["topology"]["cores"], 4);
        assert_eq!(cpu["pinning"], json!([{"vcpu": 0, "cpus": "0-1"}]));
        assert_eq!(cpu["numa"], json!([{"cpus": "0-3", "memory": 256}]));
        assert_eq!(
            json!(vm.memory_options),
            json!({"hugepages": true, "hugepage_size": 2048, "shared": true, "ballooning": false})
        );
        assert_eq!(json!(vm.clock)["timezone"], "Europe/Berlin");
        let disk = json!(vm.disks[0]);
        for (name, value) in [("cache", "none"), ("io", "native"), ("discard", "unmap")] {
            assert_eq!(disk[name], value);
        }
        assert_eq!(disk["iothread"], 2);
        let nic = json!(vm.networks[0]);
        assert_eq!((&nic["mode"], &nic["vlan"]), (&json!("private"), &json!(7)));
        assert_eq!(nic["inbound"], json!({"average": 10, "peak": 20, "burst": null}));
        assert_eq!((&nic["outbound"]["average"], &nic["isolated"]), (&json!(5), &json!(true)));
        let hardware = json!(vm.hardware);
        assert_eq!((&hardware["video"], &hardware["sound"]), (&json!("vga"), &json!("ich9")));
        assert_eq!(hardware["watchdog"], json!({"model": "itco", "action": "pause"}));
        assert_eq!((&hardware["rng"], &hardware["vsock"]["cid"]), (&json!(true), &json!(9)));
    }

    #[test]
    fn what_only_one_vm_shows_is_taken_away_and_put_back() {
        let xml = "<domain><cpu mode='maximum'/><devices><disk><driver cache='none'/>\
<target dev='vda'/></disk></devices></domain>";
        let (mut vm, mut told) = (parse(xml).unwrap(), parse(xml).unwrap());
        vm.strip_details();
        let shown = json!(vm);
        assert!(shown.get("cpu").is_none() && shown["disks"][0].get("cache").is_none(), "{shown}");
        vm.take_details(&mut told);
        assert_eq!(vm, parse(xml).unwrap());
    }
}
