//! Changes to single disks and NICs, found by target and by MAC.

use super::{DEVICES_ORDER, view};
use crate::error::{Error, Kind, Result};
use crate::model::NicSourceType;
use crate::model::vm_request::{Bandwidth, DirectMode, DiskBus, DiskCache, DiskDiscard, DiskIo};
use crate::xml::domain::author;
use crate::xml::tree::{Document, Element};

/// The order of a disk's elements in libvirt's own output, as far as Vapor adds any.
const DISK_ORDER: &[&str] = &[
    "driver",
    "auth",
    "source",
    "backingStore",
    "mirror",
    "target",
    "iotune",
    "readonly",
    "shareable",
    "transient",
    "serial",
    "wwn",
    "vendor",
    "product",
    "encryption",
    "boot",
];

/// The same for a NIC.
const NIC_ORDER: &[&str] = &[
    "mac",
    "source",
    "virtualport",
    "ip",
    "route",
    "script",
    "target",
    "guest",
    "model",
    "driver",
    "backend",
    "filterref",
    "bandwidth",
    "vlan",
    "port",
    "tune",
    "link",
    "mtu",
    "coalesce",
    "boot",
];

/// What shall change of one disk; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskEdit {
    pub read_only: Option<bool>,
    /// Empty removes it.
    pub serial: Option<String>,
    pub cache: Option<DiskCache>,
    pub io: Option<DiskIo>,
    pub discard: Option<DiskDiscard>,
    /// The number of an I/O thread, of which there will be enough; 0 removes it.
    pub iothread: Option<u32>,
    /// 0 removes it.
    pub boot_order: Option<u32>,
    /// Another bus, and the target on it.
    pub bus: Option<(DiskBus, String)>,
}

/// What shall change of one NIC; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NicEdit {
    pub link_up: Option<bool>,
    /// The type, and the network, bridge or device where the type has one.
    pub source: Option<(NicSourceType, Option<String>)>,
    pub model: Option<String>,
    /// For direct NICs.
    pub mode: Option<DirectMode>,
    /// Empty inside removes it; so with the limits below.
    pub vlan: Option<Option<u16>>,
    pub inbound: Option<Option<Bandwidth>>,
    pub outbound: Option<Option<Bandwidth>>,
    pub isolated: Option<bool>,
    /// 0 removes it.
    pub boot_order: Option<u32>,
}

/// The NIC with this MAC alone, changed: what `virDomainUpdateDeviceFlags` takes for a running
/// domain. `domain_xml` is the running one's; what is of this run only is left out.
///
/// # Errors
/// `Impossible` if there is no such NIC; `InvalidDefinition` if `domain_xml` is not a domain.
pub fn nic_alone(domain_xml: &str, mac: &str, edit: &NicEdit) -> Result<String> {
    let mut document = Document::parse(domain_xml)?;
    view::expect_domain(document.root())?;
    let found = nic_mut(document.root_mut(), mac)?;
    if let Some(source) = found.child_mut("source") {
        // The port in the network is made anew by libvirt for what is plugged in anew.
        source.remove_attr("portid");
    }
    change_nic(found, edit);
    found.clone().into_xml()
}

pub(super) fn disk(domain: &mut Element<'_>, target: &str, edit: &DiskEdit) -> Result<()> {
    let is_it = |element: &&mut Element<'_>| {
        element.is("disk") && element.find_attr("target", "dev").as_deref() == Some(target)
    };
    let devices = domain.child_mut("devices").into_iter().flat_map(Element::elements_mut);
    let Some(disk) = { devices }.find(is_it) else {
        return Err(Error::new(Kind::Impossible, format!("the definition has no disk {target:?}")));
    };
    match edit.read_only {
        Some(true) if disk.child("readonly").is_none() => {
            disk.insert_child_in_order(Element::new("readonly"), DISK_ORDER);
        }
        Some(false) => drop(disk.remove_child("readonly")),
        _ => {}
    }
    match edit.serial.as_deref() {
        Some("") => drop(disk.remove_child("serial")),
        Some(serial) => match disk.child_mut("serial") {
            Some(known) => known.set_text(serial),
            None => {
                let new = Element::new("serial").with_text(serial);
                disk.insert_child_in_order(new, DISK_ORDER);
            }
        },
        None => {}
    }
    let words = [
        ("cache", edit.cache.map(|cache| cache.as_str().to_owned())),
        ("io", edit.io.map(|io| io.as_str().to_owned())),
        ("discard", edit.discard.map(|discard| discard.as_str().to_owned())),
        ("iothread", edit.iothread.map(|number| number.to_string())),
    ];
    for (name, word) in words {
        let Some(word) = word else { continue };
        if disk.child("driver").is_none() {
            let driver = Element::new("driver").with_attr("name", "qemu");
            disk.insert_child_in_order(driver, DISK_ORDER);
        }
        let Some(driver) = disk.child_mut("driver") else { continue };
        if (name, word.as_str()) == ("iothread", "0") {
            driver.remove_attr(name);
        } else {
            driver.set_attr(name, word);
        }
    }
    boot_order(disk, edit.boot_order, DISK_ORDER);
    let threads = edit.iothread.unwrap_or_default();
    if let Some((bus, target)) = &edit.bus {
        let place = disk.child_mut("target");
        if let Some(place) = place {
            place.set_attr("dev", target);
            place.set_attr("bus", bus.as_str());
            // What only the old bus had.
            place.remove_attr("tray");
            place.remove_attr("removable");
            place.remove_attr("rotation_rate");
        }
        // libvirt gives it a place on the new bus.
        disk.remove_child("address");
        disk.remove_child("alias");
        if *bus == DiskBus::Scsi {
            scsi_controller(domain);
        }
    }
    if threads > 0 {
        iothreads(domain, threads);
    }
    Ok(())
}

/// Without one, libvirt would add a model that few guests know.
fn scsi_controller(domain: &mut Element<'_>) {
    let Some(devices) = domain.child_mut("devices") else { return };
    let is_scsi = |controller: &Element<'_>| controller.attr("type").as_deref() == Some("scsi");
    if !devices.children("controller").any(is_scsi) {
        let controller =
            Element::new("controller").with_attr("type", "scsi").with_attr("model", "virtio-scsi");
        devices.insert_child_in_order(controller, DEVICES_ORDER);
    }
}

/// At least so many I/O threads.
fn iothreads(domain: &mut Element<'_>, least: u32) {
    let known = domain.find_text("iothreads").and_then(|text| text.trim().parse::<u32>().ok());
    if known.is_none_or(|known| known < least) {
        super::set_child_text(domain, "iothreads", least.to_string());
    }
}

fn boot_order(device: &mut Element<'_>, order: Option<u32>, among: &[&str]) {
    match (order, device.child_mut("boot")) {
        (None, _) => {}
        (Some(0), _) => drop(device.remove_child("boot")),
        (Some(order), Some(boot)) => boot.set_attr("order", order.to_string()),
        (Some(order), None) => {
            let boot = Element::new("boot").with_attr("order", order.to_string());
            device.insert_child_in_order(boot, among);
        }
    }
}

pub(super) fn nic(domain: &mut Element<'_>, mac: &str, edit: &NicEdit) -> Result<()> {
    change_nic(nic_mut(domain, mac)?, edit);
    Ok(())
}

fn nic_mut<'d, 'a>(domain: &'d mut Element<'a>, mac: &str) -> Result<&'d mut Element<'a>> {
    domain
        .child_mut("devices")
        .into_iter()
        .flat_map(Element::elements_mut)
        .find(|element| {
            element.is("interface")
                && element
                    .find_attr("mac", "address")
                    .is_some_and(|address| address.eq_ignore_ascii_case(mac))
        })
        .ok_or_else(|| Error::new(Kind::Impossible, format!("the definition has no NIC {mac}")))
}

fn change_nic(nic: &mut Element<'_>, edit: &NicEdit) {
    if let Some(up) = edit.link_up {
        let word = if up { "up" } else { "down" };
        match nic.child_mut("link") {
            Some(link) => link.set_attr("state", word),
            None if up => {}
            None => {
                let link = Element::new("link").with_attr("state", word);
                nic.insert_child_in_order(link, NIC_ORDER);
            }
        }
    }
    if let Some((r#type, name)) = &edit.source {
        plug(nic, *r#type, name.as_deref());
    }
    if let Some(model) = &edit.model {
        match nic.child_mut("model") {
            Some(known) => known.set_attr("type", model),
            None => {
                let new = Element::new("model").with_attr("type", model);
                nic.insert_child_in_order(new, NIC_ORDER);
            }
        }
    }
    if let (Some(mode), Some(source)) = (edit.mode, nic.child_mut("source")) {
        source.set_attr("mode", mode.as_str());
    }
    if let Some(tag) = edit.vlan {
        nic.remove_child("vlan");
        let tag = tag.map(|tag| Element::new("tag").with_attr("id", tag.to_string()));
        if let Some(tag) = tag {
            nic.insert_child_in_order(Element::new("vlan").with_child(tag), NIC_ORDER);
        }
    }
    limit(nic, "inbound", edit.inbound);
    limit(nic, "outbound", edit.outbound);
    if let Some(isolated) = edit.isolated {
        nic.remove_child("port");
        if isolated {
            let port = Element::new("port").with_attr("isolated", "yes");
            nic.insert_child_in_order(port, NIC_ORDER);
        }
    }
    boot_order(nic, edit.boot_order, NIC_ORDER);
}

fn limit(nic: &mut Element<'_>, side: &'static str, wanted: Option<Option<Bandwidth>>) {
    let Some(wanted) = wanted else { return };
    if let Some(bandwidth) = nic.child_mut("bandwidth") {
        bandwidth.remove_child(side);
    }
    if let Some(wanted) = wanted {
        if nic.child("bandwidth").is_none() {
            nic.insert_child_in_order(Element::new("bandwidth"), NIC_ORDER);
        }
        if let Some(bandwidth) = nic.child_mut("bandwidth") {
            bandwidth.insert_child_in_order(author::limit(side, wanted), &["inbound", "outbound"]);
        }
    }
    if nic.child("bandwidth").is_some_and(|bandwidth| bandwidth.elements().next().is_none()) {
        nic.remove_child("bandwidth");
    }
}

/// Plugs it into something else. What was said of the old port says nothing of the new one.
fn plug(nic: &mut Element<'_>, r#type: NicSourceType, name: Option<&str>) {
    let (word, attribute) = match r#type {
        NicSourceType::Network => ("network", Some("network")),
        NicSourceType::Bridge => ("bridge", Some("bridge")),
        NicSourceType::Direct => ("direct", Some("dev")),
        NicSourceType::User => ("user", None),
    };
    nic.set_attr("type", word);
    for old in ["source", "virtualport"] {
        nic.remove_child(old);
    }
    if let (Some(attribute), Some(name)) = (attribute, name) {
        let bridged = (r#type == NicSourceType::Direct).then_some("bridge");
        let source =
            Element::new("source").with_attr(attribute, name).with_attr_if("mode", bridged);
        nic.insert_child_in_order(source, NIC_ORDER);
    }
}
