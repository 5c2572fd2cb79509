//! What the host can do: `virConnectGetCapabilities` and `virConnectGetDomainCapabilities`.

use crate::error::{Error, Kind, Result};
use crate::model::host::{Capabilities, DomainCapabilities, GuestCapabilities};

use super::tree::{Document, Element};

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
        format!("the XML describes a <{}>, not <{name}>", root.name()),
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
