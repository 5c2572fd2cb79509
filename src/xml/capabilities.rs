//! What the host can do: `virConnectGetCapabilities` and `virConnectGetDomainCapabilities`.

use crate::error::{Error, Kind, Result};
use crate::model::host::{Capabilities, DomainCapabilities, GuestCapabilities};

use super::tree::{Document, Element, shown};

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
        architecture: root.find_text("host/cpu/arch").unwrap_or_default(),
        guests,
        preferred: DomainCapabilities::default(),
    })
}

fn guest(guest: &Element<'_>) -> Option<GuestCapabilities> {
    let arch = guest.child("arch")?;
    let domains = || arch.children("domain");
    let machines = arch
        .children("machine")
        .chain(domains().flat_map(|d| d.elements().filter(|element| element.is("machine"))));
    let mut names: Vec<String> = Vec::new();
    for machine in machines {
        let name = machine.text().trim().to_owned();
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
    })
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
        assert_eq!(
            found,
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
}
