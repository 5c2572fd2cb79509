//! What a client adds to a new definition: a `<domain>` whose parts are merged into the authored one;
//! and what of the host a definition reaches, by the same rule where a client replaces one.
//!
//! - `<name>`, `<uuid>`, Vapor's own metadata and attributes of `<domain>` are refused.
//! - Each child of `<devices>` is a device more; a device that a VM has once (`memballoon`, `vsock`,
//!   `iommu`, `emulator`) replaces the one that is there.
//! - Each child of `<metadata>` is added.
//! - Everything else is merged by name: an element that is there once on both sides gets the
//!   attributes, the text and, by the same rule, the children of its namesake; other elements are
//!   added.
//!
//! libvirt holds the outcome to its schema when it is defined.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::xml::tree::{Document, Element};

use super::METADATA_URI;

/// Devices that a VM has once.
const SINGLE: [&str; 4] = ["emulator", "memballoon", "vsock", "iommu"];

/// Elements whose purpose is to reach something of the host.
const REACHING: [&str; 13] = [
    "disk",
    "filesystem",
    "hostdev",
    "emulator",
    "kernel",
    "initrd",
    "dtb",
    "loader",
    "nvram",
    "shmem",
    "seclabel",
    "resource",
    "launchSecurity",
];

/// Attributes that name a file or a device of the host, wherever they stand.
const PATHS: [&str; 6] = ["file", "dir", "path", "socket", "binary", "table"];

/// Whether this may be merged into a new definition. `may_reach_host` allows what names files and
/// devices of the host.
///
/// # Errors
/// 422 if it is no `<domain>`, speaks of the VM's identity, or reaches the host and may not.
pub fn check(xml: &str, may_reach_host: bool) -> Result<()> {
    let document = parse(xml)?;
    let root = document.root();
    if let Some(name) = root.attr_names().find(|name| !name.starts_with("xmlns:")) {
        return Err(refused(format!("changes the attribute {name:?} of <domain>")));
    }
    for child in root.elements() {
        if child.is("name") || child.is("uuid") {
            return Err(refused(format!("replaces the VM's <{}>", child.name())));
        }
    }
    for metadata in root.children("metadata") {
        if metadata.elements().any(|own| own.namespace() == Some(METADATA_URI)) {
            return Err(refused("replaces Vapor's metadata"));
        }
    }
    if may_reach_host {
        return Ok(());
    }
    let mut rest = root.elements().filter(|child| !child.is("metadata"));
    rest.try_for_each(reaches_nothing)
}

fn reaches_nothing(element: &Element<'_>) -> Result<()> {
    if let Some(what) = reaches(element) {
        return Err(refused(what)
            .with_hint("say it with the fields of the request, or as root over the Unix socket"));
    }
    element.elements().try_for_each(reaches_nothing)
}

/// In what an element itself reaches the host, if it does.
fn reaches(element: &Element<'_>) -> Option<String> {
    let name = element.name();
    if element.namespace().is_some() {
        return Some(format!("holds <{name}>, which libvirt hands on unseen"));
    }
    if REACHING.contains(&name) {
        return Some(format!("holds <{name}>, which reaches the host"));
    }
    for attribute in element.attr_names() {
        let value = element.attr(attribute).unwrap_or_default();
        let names_path = PATHS.contains(&attribute) || (name == "source" && attribute == "dev");
        if names_path || value.starts_with('/') {
            return Some(format!("names something of the host in {attribute:?} of <{name}>"));
        }
    }
    element
        .text()
        .trim()
        .starts_with('/')
        .then(|| format!("names something of the host in <{name}>"))
}

/// Whether a definition may take the place of those that the VM has, for somebody who may not reach
/// the host: what reaches it must be as it is in one of them, to the last attribute, because also a
/// disk that was read-only and no longer is would reach what it did not.
///
/// # Errors
/// 422 if it reaches more of the host; if one of them is no domain.
pub fn check_replacement(new: &str, present: &[&str]) -> Result<()> {
    let mut known = BTreeSet::new();
    for definition in present {
        let document = Document::parse(definition)?;
        walk(document.root(), &mut Vec::new(), &mut |at, element, _| {
            known.insert((at.to_vec(), canonical(element)));
            Ok(())
        })?;
    }
    let document = Document::parse(new)?;
    walk(document.root(), &mut Vec::new(), &mut |at, element, what| {
        if known.contains(&(at.to_vec(), canonical(element))) {
            return Ok(());
        }
        let message = format!("the new definition {what}, other than the VM's present one");
        Err(Error::new(Kind::InvalidDefinition, message).with_hint(
            "leave it as it is, say it with the fields of a change, or replace the definition as \
             root over the Unix socket",
        ))
    })
}

/// Hands each outermost element that reaches the host to `take`, with the names of those around it
/// and in what it does.
fn walk(
    element: &Element<'_>,
    at: &mut Vec<String>,
    take: &mut impl FnMut(&[String], &Element<'_>, String) -> Result<()>,
) -> Result<()> {
    at.push(element.name().to_owned());
    for child in element.elements() {
        // What libvirt does not read reaches nothing.
        if at.len() == 1 && child.is("metadata") {
            continue;
        }
        match reaches(child) {
            Some(what) => take(at, child, what)?,
            None => walk(child, at, take)?,
        }
    }
    at.pop();
    Ok(())
}

/// Words that are the same for elements that say the same, however they are written.
fn canonical(element: &Element<'_>) -> Vec<String> {
    let mut words =
        vec![element.namespace().unwrap_or_default().to_owned(), element.local_name().to_owned()];
    let names: BTreeSet<&str> = element.attr_names().collect();
    for name in names.into_iter().filter(|name| !name.starts_with("xmlns")) {
        words.push(format!("@{name}"));
        words.push(element.attr(name).unwrap_or_default().into_owned());
    }
    words.push("=".to_owned());
    words.push(element.text().trim().to_owned());
    for child in element.elements() {
        words.push("(".to_owned());
        words.extend(canonical(child));
        words.push(")".to_owned());
    }
    words
}

/// The definition with what is to be merged into it, which [`check`] has let through.
///
/// # Errors
/// As [`check`] and [`Document::parse`].
pub fn merge(definition: &str, custom: &str) -> Result<String> {
    let mut document = Document::parse(definition)?;
    let custom = parse(custom)?;
    let root = document.root_mut();
    root.take_attributes(custom.root());
    for child in custom.root().elements() {
        match (child.name(), root.child_mut(child.name())) {
            ("devices", Some(devices)) => {
                for device in child.elements() {
                    if SINGLE.contains(&device.name()) {
                        devices.retain_elements(|present| !present.is(device.name()));
                    }
                    devices.push_child(device.clone());
                }
            }
            ("metadata", Some(metadata)) => {
                for entry in child.elements() {
                    metadata.push_child(entry.clone());
                }
            }
            _ => merge_child(root, custom.root(), child),
        }
    }
    document.to_xml()
}

fn merge_child<'a>(into: &mut Element<'a>, parent: &Element<'a>, child: &Element<'a>) {
    let same = |element: &Element<'_>| {
        element.name() == child.name() && element.namespace() == child.namespace()
    };
    let once = parent.elements().filter(|element| same(element)).count() == 1
        && into.elements().filter(|element| same(element)).count() == 1;
    let Some(present) = into.elements_mut().find(|element| once && same(element)) else {
        into.push_child(child.clone());
        return;
    };
    present.take_attributes(child);
    let text = child.text();
    if !text.trim().is_empty() {
        present.set_text(text.into_owned());
    }
    for below in child.elements() {
        merge_child(present, child, below);
    }
}

fn parse(xml: &str) -> Result<Document<'_>> {
    let wrong = |error: Error| {
        Error::new(Kind::InvalidDefinition, format!("custom_xml: {}", error.message()))
            .with_field("custom_xml", error.message())
    };
    let document = Document::parse(xml).map_err(wrong)?;
    document.expect("domain").map_err(wrong)?;
    Ok(document)
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::new(Kind::InvalidDefinition, format!("custom_xml {what}"))
        .with_field("custom_xml", what.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "<domain type='kvm'><name>a</name><metadata><x:y xmlns:x='u'/></metadata>\
        <features><acpi/></features><cpu mode='host-model'/>\
        <devices><memballoon model='virtio'/></devices></domain>";

    #[test]
    fn parts_are_merged_devices_added_and_what_is_there_once_replaced() {
        let merged = merge(
            BASE,
            "<domain xmlns:q='urn:q'><features><acpi/><hyperv><relaxed state='on'/></hyperv></features>\
             <cpu check='none'><topology sockets='1'/></cpu><memtune><hard_limit>9</hard_limit></memtune>\
             <devices><memballoon model='none'/><input type='mouse' bus='ps2'/></devices>\
             <metadata><z:z xmlns:z='urn:z'/></metadata><q:more/></domain>",
        )
        .unwrap();
        let document = Document::parse(&merged).unwrap();
        let root = document.root();
        assert_eq!(root.find("features").unwrap().elements().count(), 2, "{merged}");
        assert_eq!(root.find_attr("cpu", "mode").as_deref(), Some("host-model"));
        assert_eq!(root.find_attr("cpu", "check").as_deref(), Some("none"));
        assert_eq!(root.find_attr("cpu/topology", "sockets").as_deref(), Some("1"));
        assert_eq!(root.find_text("memtune/hard_limit").as_deref(), Some("9"));
        assert_eq!(root.find_attr("devices/memballoon", "model").as_deref(), Some("none"));
        assert_eq!(root.find("devices").unwrap().elements().count(), 2);
        assert_eq!(root.find("metadata").unwrap().elements().count(), 2);
        assert!(root.child_in("urn:q", "more").is_some());
        assert_eq!(root.find_text("name").as_deref(), Some("a"));
    }

    #[test]
    fn identity_and_own_metadata_are_never_replaced() {
        for xml in [
            "<domain><name>b</name></domain>",
            "<domain><uuid>3f0cb1e6-8a68-4a55-8d3f-5f6c1b1f4a11</uuid></domain>",
            "<domain type='qemu'/>",
            "<domain><metadata><v:vm xmlns:v='urn:vapor:vm:1'/></metadata></domain>",
            "<network/>",
            "<domain>",
        ] {
            let error = check(xml, true).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidDefinition, "{xml}");
            assert_eq!(error.details()["fields"][0]["field"], "custom_xml");
        }
    }

    #[test]
    fn only_who_administers_the_host_reaches_it() {
        for inner in [
            "<devices><disk type='file'><source file='x'/></disk></devices>",
            "<devices><filesystem/></devices>",
            "<devices><hostdev/></devices>",
            "<devices><emulator>/bin/sh</emulator></devices>",
            "<devices><serial type='file'><source path='x'/></serial></devices>",
            "<devices><serial type='dev'><source dev='x'/></serial></devices>",
            "<devices><rng><backend model='random'>/dev/sda</backend></rng></devices>",
            "<os><kernel>/boot/vmlinuz</kernel></os>",
            "<sysinfo type='fwcfg'><entry name='a' file='b'/></sysinfo>",
            "<blkiotune><device><path> /dev/sda</path></device></blkiotune>",
            "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>",
            "<seclabel type='none'/>",
        ] {
            let xml = ["<domain>", inner, "</domain>"].concat();
            assert!(check(&xml, true).is_ok(), "{inner}");
            assert!(check(&xml, false).is_err(), "{inner}");
        }
        let harmless = "<domain><features><pmu state='off'/></features></domain>";
        assert!(check(harmless, false).is_ok());
    }

    const PRESENT: &str = "<domain xmlns:q='urn:q' type='kvm'><name>a</name>\
        <metadata><x:y xmlns:x='u' file='/a'/></metadata><os><kernel>/k</kernel></os>\
        <devices><emulator>/usr/bin/q</emulator>\
        <disk type='file'><source file='/p/a'/><target dev='vda' bus='virtio'/><readonly/></disk>\
        <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices>\
        <q:commandline><q:arg value='x'/></q:commandline></domain>";

    #[test]
    fn a_replacement_keeps_what_reaches_the_host_and_adds_nothing() {
        let changed = |from: &str, to: &str| {
            let new = PRESENT.replace(from, to);
            assert_ne!(new, PRESENT, "{from}");
            check_replacement(&new, &["<domain/>", PRESENT])
        };
        for (from, to) in [
            ("<name>a", "<title>t</title><name>a"),
            ("file='/a'", "file='/b'"),
            ("<source file='/p/a'/>", "\n  <source   file=\"/p/a\"></source>\n"),
            ("type='kvm'>", "type='kvm'><features><acpi/></features>"),
            ("<rng model='virtio'>", "<rng model='virtio-transitional'>"),
            ("<os><kernel>/k</kernel></os>", "<os/>"),
            ("<q:commandline><q:arg value='x'/></q:commandline>", ""),
            ("q:", "r:"),
        ] {
            assert!(changed(from, to).is_ok(), "{from} → {to}");
        }
        for (from, to) in [
            ("'/p/a'", "'/p/b'"),
            ("<readonly/>", ""),
            ("<kernel>/k", "<kernel>/k2"),
            ("</kernel>", "</kernel><initrd>/k</initrd>"),
            ("/dev/urandom", "/dev/sda"),
            ("value='x'", "value='y'"),
            ("</devices>", "<disk type='volume'><source pool='p' volume='v'/></disk></devices>"),
            ("</devices>", "<serial type='file'><source path='x'/></serial></devices>"),
            ("<os>", "<sysinfo type='fwcfg'><entry name='n' file='/etc/shadow'/></sysinfo><os>"),
            // The same words elsewhere mean something else.
            ("<os><kernel>/k</kernel></os>", "<os/><kernel>/k</kernel>"),
        ] {
            let error = changed(from, to).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidDefinition, "{from} → {to}");
        }
        assert!(check_replacement(PRESENT, &[]).is_err());
    }

    #[test]
    fn every_definition_of_the_corpus_may_take_its_own_place() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
            if Document::parse(&text).is_ok() {
                check_replacement(&text, &[&text]).unwrap();
                seen += 1;
            }
        }
        assert!(seen > 3, "{seen}");
    }
}
