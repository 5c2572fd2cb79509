//! A definition as that of another VM: the same machine with an identity and disks of its own.
//!
//! What two VMs cannot have in common is changed or left to libvirt to choose anew: UUID and name,
//! MAC addresses, the firmware's variables, the TPM's state, ports and sockets that only one
//! process can listen on. What cloud-init or Ignition told the source is not told the new VM, which
//! has it on its disks already. Everything else keeps its bytes, also what Vapor does not know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::xml::tree::{Document, Element};

use super::author::DiskSource;
use super::media::{self, Medium};
use super::{METADATA_URI, edit, ignition, view};

/// Who the new VM is.
#[derive(Clone, Debug)]
pub struct NewIdentity {
    pub name: String,
    pub uuid: Uuid,
    /// The source's if absent; empty removes it.
    pub description: Option<String>,
    /// Replaces all labels; the source's if absent.
    pub labels: Option<BTreeMap<String, String>>,
    pub owner: String,
    pub created_at: Timestamp,
}

/// The definition of the new VM, whose disks with these targets lie elsewhere.
///
/// # Errors
/// `InvalidDefinition` if `xml` is not a domain, or has no disk with one of the targets;
/// `InvalidRequest` for characters XML cannot carry.
pub fn apply(
    xml: &str,
    identity: &NewIdentity,
    disks: &BTreeMap<String, Medium>,
) -> Result<String> {
    let changed = edit::apply(
        xml,
        &edit::DomainEdit {
            description: identity.description.clone(),
            labels: identity.labels.clone(),
            ..edit::DomainEdit::default()
        },
    )?;
    let changed = edit::set_identity(&changed, identity.uuid, &identity.name)?;
    let mut document = Document::parse(&changed)?;
    let domain = document.root_mut();
    identify(domain, identity);
    firmware(domain);
    let told: Vec<String> =
        [take_seed(domain), ignition::take(domain)].into_iter().flatten().collect();
    let Some(devices) = domain.child_mut("devices") else {
        return if disks.is_empty() { document.to_xml() } else { Err(no_disk(disks)) };
    };
    for device in devices.elements_mut().filter(|device| device.namespace().is_none()) {
        match device.name() {
            "interface" => interface(device),
            "graphics" => graphics(device),
            "channel" => socket(device),
            "tpm" => tpm(device),
            "vsock" => vsock(device),
            _ => {}
        }
    }
    devices.retain_elements(|device| {
        let target = device.find_attr("target", "dev");
        !device.is("disk") || target.is_none_or(|target| !told.contains(&target))
    });
    move_disks(devices, disks)?;
    document.to_xml()
}

/// Forgets the disk that the source's cloud-init reads; returns its target.
fn take_seed(domain: &mut Element<'_>) -> Option<String> {
    let own = domain.child_mut("metadata")?.child_in_mut(METADATA_URI, "vm")?;
    let target = own.child_in(METADATA_URI, "seed")?.attr("target")?.into_owned();
    own.retain_elements(|element| !element.is_in(METADATA_URI, "seed"));
    Some(target)
}

/// The definition with its disks of these targets elsewhere, and nothing else changed.
///
/// # Errors
/// Those of [`apply`].
pub fn with_disks(xml: &str, disks: &BTreeMap<String, Medium>) -> Result<String> {
    let mut document = Document::parse(xml)?;
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    match domain.child_mut("devices") {
        Some(devices) => move_disks(devices, disks)?,
        None if disks.is_empty() => {}
        None => return Err(no_disk(disks)),
    }
    document.to_xml()
}

fn no_disk(disks: &BTreeMap<String, Medium>) -> Error {
    let targets: Vec<&str> = disks.keys().map(String::as_str).collect();
    Error::new(
        Kind::InvalidDefinition,
        format!("the definition has no disk {}: it has changed meanwhile", targets.join(", ")),
    )
}

fn move_disks(devices: &mut Element<'_>, disks: &BTreeMap<String, Medium>) -> Result<()> {
    let mut missing = disks.clone();
    for disk in devices.elements_mut().filter(|device| device.is("disk")) {
        let target = disk.find_attr("target", "dev").unwrap_or_default();
        if let Some(medium) = missing.remove(&target) {
            media::put(disk, Some(&medium));
            disk.remove_child("mirror");
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(no_disk(&missing)) }
}

/// What a machine is known by besides its UUID and its name.
fn identify(domain: &mut Element<'_>, identity: &NewIdentity) {
    // One that was given by hand would be the old one's; an empty one asks libvirt for another.
    if let Some(generation) = domain.child_mut("genid") {
        generation.set_text("");
    }
    // Words for people that name the source.
    domain.remove_child("title");
    // libvirt insists that the SMBIOS tables have the domain's UUID.
    let tables = domain.elements_mut().filter(|element| element.is("sysinfo"));
    for system in tables.flat_map(Element::elements_mut).filter(|table| table.is("system")) {
        let uuids = system
            .elements_mut()
            .filter(|entry| entry.attr("name").as_deref() == Some("uuid") && entry.is("entry"));
        for entry in uuids {
            entry.set_text(identity.uuid.to_string());
        }
    }
    let own =
        domain.child_mut("metadata").and_then(|metadata| metadata.child_in_mut(METADATA_URI, "vm"));
    let Some(own) = own else { return };
    for (name, text) in
        [("owner", identity.owner.clone()), ("created", identity.created_at.to_string())]
    {
        match own.child_in_mut(METADATA_URI, name) {
            Some(known) => known.set_text(text),
            None => {
                let element = Element::new_beside(own, name).with_text(text);
                own.push_child(element);
            }
        }
    }
}

/// libvirt makes the firmware's variables anew, from the template that is named or from the
/// firmware's own.
fn firmware(domain: &mut Element<'_>) {
    let Some(nvram) = domain.child_mut("os").and_then(|os| os.child_mut("nvram")) else { return };
    nvram.remove_attr("type");
    nvram.remove_child("source");
    nvram.set_text("");
}

fn interface(interface: &mut Element<'_>) {
    interface.remove_child("mac");
    // A tap device that somebody else has made belongs to one VM, whichever that is.
    if interface.find_attr("target", "managed").as_deref() != Some("no") {
        interface.remove_child("target");
    }
    if let Some(port) = interface.child_mut("virtualport")
        && let Some(parameters) = port.child_mut("parameters")
    {
        parameters.remove_attr("interfaceid");
        parameters.remove_attr("instanceid");
    }
}

/// Two QEMUs cannot listen on one port.
fn graphics(graphics: &mut Element<'_>) {
    let fixed = |port: &str| port.parse::<i64>().is_ok_and(|port| port > 0);
    let is_fixed =
        ["port", "tlsPort"].iter().any(|name| graphics.attr(name).is_some_and(|port| fixed(&port)));
    if is_fixed {
        graphics.remove_attr("tlsPort");
        graphics.set_attr("port", "-1");
        graphics.set_attr("autoport", "yes");
    }
    if graphics.attr("websocket").is_some_and(|port| fixed(&port)) {
        graphics.set_attr("websocket", "-1");
    }
    graphics.remove_attr("socket");
    for listen in graphics.elements_mut().filter(|element| element.is("listen")) {
        listen.remove_attr("socket");
    }
}

/// libvirt chooses a place for the socket of a channel that names none.
fn socket(channel: &mut Element<'_>) {
    let own = channel.attr("type").as_deref() == Some("unix")
        && channel.find_attr("source", "mode").as_deref() != Some("connect")
        && channel.find_attr("target", "type").as_deref() == Some("virtio");
    if own {
        channel.remove_child("source");
    }
}

/// The state lies under the VM's UUID, unless the definition names a place for it.
fn tpm(tpm: &mut Element<'_>) {
    if let Some(backend) = tpm.child_mut("backend")
        && backend.attr("type").as_deref() == Some("emulator")
    {
        backend.remove_child("source");
    }
}

fn vsock(vsock: &mut Element<'_>) {
    if let Some(cid) = vsock.child_mut("cid")
        && cid.attr("address").is_some()
    {
        cid.remove_attr("address");
        cid.set_attr("auto", "yes");
    }
}

/// Where a disk of a clone lies: a volume's path and libvirt's type, and the format in it.
pub fn placed(pool: &str, volume: &str, path: &str, r#type: &str, format: &str) -> Medium {
    Medium {
        source: DiskSource::Volume {
            pool: pool.to_owned(),
            volume: volume.to_owned(),
            path: path.to_owned(),
            r#type: r#type.to_owned(),
        },
        format: format.to_owned(),
    }
}

#[cfg(test)]
mod tests;
