//! What the host can do: `virConnectGetCapabilities`, `virConnectGetDomainCapabilities` and
//! `virConnectGetStoragePoolCapabilities`.

use crate::error::{Error, Kind, Result};
use crate::model::host::{
    Capabilities, Capability, CpuModel, DomainCapabilities, GuestCapabilities, HostCpu,
    HostHardware, MachineType, NumaCell, NumaPages, PoolTypeCapabilities, Variants,
};

use super::tree::{Document, Element, shown};
use super::units;

/// The host's capabilities; `preferred` stays empty, [`parse_domain_capabilities`] makes it.
pub fn parse_capabilities(xml: &str) -> Result<Capabilities> {
    let document = Document::parse(xml)?;
    let root = expect(&document, "capabilities")?;
    let guests = root
        .children("guest")
        .filter(|guest| guest.find_text("os_type").as_deref() == Some("hvm"))
        .filter_map(guest)
        .collect();
    Ok(Capabilities {
        kvm_obstacle: None,
        hardware: root.child("host").map(hardware).unwrap_or_default(),
        architecture: root.find_text("host/cpu/arch").unwrap_or_default(),
        guests,
        preferred: DomainCapabilities::default(),
        storage_pools: Vec::new(),
    })
}

fn guest(guest: &Element<'_>) -> Option<GuestCapabilities> {
    let arch = guest.child("arch")?;
    let domains = || arch.children("domain");
    let machines = arch
        .children("machine")
        .chain(domains().flat_map(|d| d.elements().filter(|element| element.is("machine"))));
    let mut names: Vec<String> = Vec::new();
    let mut types: Vec<MachineType> = Vec::new();
    for machine in machines {
        let name = machine.text().trim().to_owned();
        if !types.iter().any(|known| known.name == name) {
            types.push(MachineType {
                name: name.clone(),
                canonical: machine.attr("canonical").map(|name| name.into_owned()),
                deprecated: machine.attr("deprecated").as_deref() == Some("yes"),
                max_vcpus: machine.attr("maxCpus").and_then(|count| count.parse().ok()),
            });
        }
        for name in [Some(name), machine.attr("canonical").map(|name| name.into_owned())] {
            if let Some(name) = name.filter(|name| !name.is_empty() && !names.contains(name)) {
                names.push(name);
            }
        }
    }
    Some(GuestCapabilities {
        architecture: arch.attr("name")?.into_owned(),
        emulator: arch
            .find_text("emulator")
            .or_else(|| domains().find_map(|domain| domain.find_text("emulator")))
            .unwrap_or_default(),
        domain_types: domains().filter_map(|d| Some(d.attr("type")?.into_owned())).collect(),
        machines: names,
        machine_types: types,
    })
}

/// What a VM with this emulator, machine and domain type can have. What libvirt says is not
/// supported is left out.
pub fn parse_domain_capabilities(xml: &str) -> Result<DomainCapabilities> {
    let document = Document::parse(xml)?;
    let root = expect(&document, "domainCapabilities")?;
    let text = |path: &str| root.find_text(path).unwrap_or_default();
    let device = |name: &str, values: &str| {
        root.find("devices").map(|d| enum_values(d.child(name), values)).unwrap_or_default()
    };
    let cpu_modes = root.child("cpu").into_iter().flat_map(|cpu| {
        cpu.elements()
            .filter(|mode| mode.is("mode") && is_supported(mode))
            .filter_map(|mode| Some(mode.attr("name")?.into_owned()))
    });
    let mode = |name: &str| {
        let mut modes = root.child("cpu")?.children("mode");
        modes.find(|mode| is_supported(mode) && mode.attr("name").as_deref() == Some(name))
    };
    Ok(DomainCapabilities {
        emulator: text("path"),
        domain_type: text("domain"),
        machine: text("machine"),
        architecture: text("arch"),
        max_vcpus: root.find_attr("vcpu", "max").and_then(|n| n.parse().ok()).unwrap_or_default(),
        firmware: enum_values(root.child("os"), "firmware"),
        cpu_modes: cpu_modes.collect(),
        disk_buses: device("disk", "bus"),
        graphics: device("graphics", "type"),
        video_models: device("video", "modelType"),
        rng_backends: device("rng", "backendModel"),
        has_tpm: root.find("devices/tpm").is_some_and(is_supported),
        loaders: root
            .find("os/loader")
            .map(|loader| words(loader.children("value")))
            .unwrap_or_default(),
        secure_boot: enum_values(root.find("os/loader"), "secure").iter().any(|word| word == "yes"),
        host_model: mode("host-model").and_then(|mode| mode.find_text("model")),
        cpu_models: mode("custom").map(cpu_models).unwrap_or_default(),
        devices: root.child("devices").map(capabilities).unwrap_or_default(),
        features: root.child("features").map(capabilities).unwrap_or_default(),
    })
}

/// What libvirt can do with each type of storage pool.
pub fn parse_pool_capabilities(xml: &str) -> Result<Vec<PoolTypeCapabilities>> {
    let document = Document::parse(xml)?;
    let root = expect(&document, "storagepoolCapabilities")?;
    Ok(root
        .children("pool")
        .filter_map(|pool| {
            let options = |name: &str, values: &str| enum_values(pool.child(name), values);
            Some(PoolTypeCapabilities {
                r#type: pool.attr("type")?.into_owned(),
                supported: pool.attr("supported").as_deref() == Some("yes"),
                source_formats: options("poolOptions", "sourceFormatType"),
                default_source_format: pool.find_attr("poolOptions/defaultFormat", "type"),
                volume_formats: options("volOptions", "targetFormatType"),
                default_volume_format: pool.find_attr("volOptions/defaultFormat", "type"),
            })
        })
        .collect())
}

fn expect<'d, 'a>(document: &'d Document<'a>, name: &str) -> Result<&'d Element<'a>> {
    let root = document.root();
    if root.is(name) {
        return Ok(root);
    }
    Err(Error::new(
        Kind::InvalidDefinition,
        format!("the XML describes a <{}>, not <{name}>", shown(root.name())),
    ))
}

fn hardware(host: &Element<'_>) -> HostHardware {
    let topology = |name: &str| {
        let count = host.find_attr("cpu/topology", name).and_then(|count| count.parse().ok());
        count.unwrap_or_default()
    };
    let cpu = host.child("cpu");
    let named = |element: &Element<'_>| element.attr("name").map(|name| name.into_owned());
    HostHardware {
        cpu: HostCpu {
            model: host.find_text("cpu/model"),
            vendor: host.find_text("cpu/vendor"),
            sockets: topology("sockets"),
            dies: topology("dies").max(1),
            cores: topology("cores"),
            threads: topology("threads"),
            features: cpu
                .into_iter()
                .flat_map(|cpu| cpu.children("feature"))
                .filter_map(named)
                .collect(),
            page_sizes_bytes: cpu
                .into_iter()
                .flat_map(|cpu| cpu.children("pages"))
                .filter_map(page_size)
                .collect(),
        },
        numa: host
            .find("topology/cells")
            .into_iter()
            .flat_map(|cells| cells.children("cell"))
            .filter_map(cell)
            .collect(),
        iommu: host.find_attr("iommu", "support").as_deref() == Some("yes"),
        security_models: host
            .children("secmodel")
            .filter_map(|model| model.find_text("model"))
            .filter(|model| model != "none")
            .collect(),
        migration_transports: host
            .find("migration_features/uri_transports")
            .map(|all| words(all.children("uri_transport")))
            .unwrap_or_default(),
    }
}

fn page_size(pages: &Element<'_>) -> Option<u64> {
    let size: u64 = pages.attr("size")?.parse().ok()?;
    // libvirt writes KiB alone.
    (pages.attr("unit").as_deref() == Some("KiB")).then_some(size * 1024)
}

fn cell(cell: &Element<'_>) -> Option<NumaCell> {
    let number = |cpu: &Element<'_>| cpu.attr("id")?.parse().ok();
    Some(NumaCell {
        id: number(cell)?,
        memory_bytes: cell
            .child("memory")
            .and_then(|e| units::bytes_of(e, 1024))
            .unwrap_or_default(),
        cpus: cell
            .child("cpus")
            .into_iter()
            .flat_map(|cpus| cpus.children("cpu"))
            .filter_map(number)
            .collect(),
        pages: cell
            .children("pages")
            .filter_map(|pages| {
                let count = pages.text().trim().parse().ok()?;
                Some(NumaPages { size_bytes: page_size(pages)?, count })
            })
            .collect(),
    })
}

fn cpu_models(mode: &Element<'_>) -> Vec<CpuModel> {
    mode.children("model")
        .map(|model| CpuModel {
            name: model.text().trim().to_owned(),
            usable: match model.attr("usable").as_deref() {
                Some("yes") => Some(true),
                Some("no") => Some(false),
                _ => None,
            },
            deprecated: model.attr("deprecated").as_deref() == Some("yes"),
        })
        .collect()
}

/// What the children of `<devices>` or `<features>` say of themselves.
fn capabilities(parent: &Element<'_>) -> Vec<Capability> {
    parent
        .elements()
        .filter(|element| element.namespace().is_none())
        .map(|element| Capability {
            name: element.name().to_owned(),
            supported: is_supported(element),
            variants: element
                .children("enum")
                .filter_map(|variants| {
                    let values = words(variants.children("value"));
                    let name = variants.attr("name")?.into_owned();
                    (!values.is_empty()).then_some(Variants { name, values })
                })
                .collect(),
        })
        .collect()
}

fn words<'e, 'a: 'e>(elements: impl Iterator<Item = &'e Element<'a>>) -> Vec<String> {
    elements.map(|element| element.text().trim().to_owned()).collect()
}

fn is_supported(element: &Element<'_>) -> bool {
    element.attr("supported").as_deref() != Some("no")
}

fn enum_values(element: Option<&Element<'_>>, name: &str) -> Vec<String> {
    element
        .filter(|element| is_supported(element))
        .and_then(|element| {
            element.children("enum").find(|found| found.attr("name").as_deref() == Some(name))
        })
        .map(|found| found.children("value").map(|value| value.text().trim().to_owned()).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! corpus {
        ($file:literal) => {
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/host/", $file))
        };
    }

    #[test]
    fn a_qemu_hosts_guests_are_told_with_all_their_machines() {
        let found = parse_capabilities(corpus!("capabilities-qemu.xml")).unwrap();
        assert_eq!(found.architecture, "x86_64");
        let architectures: Vec<_> = found.guests.iter().map(|g| g.architecture.as_str()).collect();
        assert_eq!(architectures, ["i686", "x86_64"]);
        let guest = &found.guests[1];
        assert_eq!(guest.emulator, "/usr/bin/qemu-system-x86_64");
        assert_eq!(guest.domain_types, ["qemu", "kvm"]);
        assert_eq!(
            guest.machines,
            ["pc-i440fx-10.0", "pc", "pc-q35-9.1", "pc-q35-10.0", "q35", "isapc", "microvm"]
        );
    }

    #[test]
    fn a_hosts_processors_and_memory_are_told() {
        let found = parse_capabilities(corpus!("capabilities-qemu.xml")).unwrap();
        let cpu = &found.hardware.cpu;
        assert_eq!((cpu.model.as_deref(), cpu.vendor.as_deref()), (Some("kvm64-v1"), Some("AMD")));
        assert_eq!((cpu.sockets, cpu.dies, cpu.cores, cpu.threads), (1, 1, 2, 1));
        assert!(cpu.features.contains(&"sse4.2".to_owned()));
        assert_eq!(cpu.page_sizes_bytes, [4096, 2 << 20, 1 << 30]);
        let [cell] = found.hardware.numa.as_slice() else { panic!("{:?}", found.hardware) };
        assert_eq!((cell.memory_bytes, cell.cpus.as_slice()), (10_447_060 << 10, &[0, 1][..]));
        assert_eq!(cell.pages[1], NumaPages { size_bytes: 2 << 20, count: 0 });
        assert!(!found.hardware.iommu);
        assert_eq!(found.hardware.migration_transports, ["tcp", "rdma"]);
        let types = &found.guests[1].machine_types;
        let q35 = types.iter().find(|machine| machine.name == "q35").unwrap();
        assert_eq!(q35.canonical.as_deref(), Some("pc-q35-10.0"));
    }

    #[test]
    fn the_test_drivers_guests_are_told() {
        let found = parse_capabilities(corpus!("capabilities-test.xml")).unwrap();
        assert_eq!(found.architecture, "i686");
        assert_eq!(found.guests.len(), 1);
        assert_eq!(found.guests[0].domain_types, ["test"]);
    }

    #[test]
    fn machines_and_emulators_of_a_domain_type_count_too() {
        let xml = "<capabilities><guest><os_type>hvm</os_type><arch name='s390x'>
            <machine>a</machine><domain type='kvm'><emulator>/e</emulator>
            <machine canonical='c'>b</machine></domain></arch></guest>
            <guest><os_type>exe</os_type><arch name='x86_64'/></guest></capabilities>";
        let found = parse_capabilities(xml).unwrap();
        assert_eq!(found.guests.len(), 1);
        assert_eq!(found.guests[0].emulator, "/e");
        assert_eq!(found.guests[0].machines, ["a", "b", "c"]);
    }

    #[test]
    fn domain_capabilities_leave_out_what_is_not_supported() {
        let found = parse_domain_capabilities(corpus!("domcapabilities-q35.xml")).unwrap();
        assert_eq!(found.loaders.len(), 3);
        assert!(found.secure_boot);
        assert_eq!(found.host_model.as_deref(), Some("EPYC"));
        let usable: Vec<_> = found.cpu_models.iter().map(|model| model.usable).collect();
        assert_eq!(usable, [Some(true), Some(true), Some(false)]);
        let of = |all: &[Capability], name: &str| {
            all.iter().find(|one| one.name == name).cloned().unwrap_or_default()
        };
        let tpm = of(&found.devices, "tpm");
        assert_eq!(
            (tpm.supported, tpm.variants[0].values.clone()),
            (true, words("tpm-tis tpm-crb"))
        );
        let files = of(&found.devices, "filesystem");
        assert!(files.variants[0].values.contains(&"virtiofs".to_owned()));
        assert!(!of(&found.features, "sev").supported);
        assert_eq!(of(&found.features, "hyperv").variants[0].values, words("spinlocks vendor_id"));
        assert_eq!(
            DomainCapabilities {
                loaders: Vec::new(),
                secure_boot: false,
                host_model: None,
                cpu_models: Vec::new(),
                devices: Vec::new(),
                features: Vec::new(),
                ..found
            },
            DomainCapabilities {
                emulator: "/usr/bin/qemu-system-x86_64".to_owned(),
                domain_type: "qemu".to_owned(),
                machine: "pc-q35-10.0".to_owned(),
                architecture: "x86_64".to_owned(),
                max_vcpus: 4096,
                firmware: words("efi"),
                cpu_modes: words("maximum host-model custom"),
                disk_buses: words("fdc scsi virtio usb sata"),
                graphics: words("sdl vnc egl-headless dbus"),
                video_models: words("vga cirrus vmvga virtio none bochs ramfb"),
                rng_backends: words("random egd builtin"),
                has_tpm: true,
                ..DomainCapabilities::default()
            }
        );
    }

    #[test]
    fn a_device_that_is_not_supported_has_no_values() {
        let xml = "<domainCapabilities><domain>test</domain><arch>i686</arch><devices>
            <graphics supported='no'><enum name='type'><value>vnc</value></enum></graphics>
            <tpm supported='no'/></devices></domainCapabilities>";
        let found = parse_domain_capabilities(xml).unwrap();
        assert!(found.graphics.is_empty() && found.disk_buses.is_empty() && !found.has_tpm);
        assert_eq!((found.domain_type.as_str(), found.max_vcpus), ("test", 0));
    }

    #[test]
    fn another_document_is_refused() {
        assert!(parse_capabilities("<domainCapabilities/>").is_err());
        assert!(parse_domain_capabilities("<capabilities/>").is_err());
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn pool_types_are_told_with_their_formats_and_whether_the_host_can_do_them() {
        let found = parse_pool_capabilities(
            "<storagepoolCapabilities>
  <pool type='fs' supported='yes'>
    <poolOptions>
      <defaultFormat type='auto'/>
      <enum name='sourceFormatType'><value>auto</value><value>ext4</value></enum>
    </poolOptions>
    <volOptions>
      <defaultFormat type='raw'/>
      <enum name='targetFormatType'><value>raw</value><value>qcow2</value></enum>
    </volOptions>
  </pool>
  <pool type='mpath' supported='no'>
  </pool>
</storagepoolCapabilities>",
        )
        .unwrap();
        assert_eq!(found.len(), 2);
        let fs = &found[0];
        assert!(fs.supported && !found[1].supported);
        assert_eq!((fs.r#type.as_str(), found[1].r#type.as_str()), ("fs", "mpath"));
        assert_eq!(fs.source_formats, ["auto", "ext4"]);
        assert_eq!(fs.default_source_format.as_deref(), Some("auto"));
        assert_eq!(fs.volume_formats, ["raw", "qcow2"]);
        assert_eq!(fs.default_volume_format.as_deref(), Some("raw"));
        assert!(found[1].source_formats.is_empty());
        assert!(parse_pool_capabilities("<capabilities/>").is_err());
    }
}
