//! Storage pools and volumes.

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskFormat;
use crate::model::{Pool, Volume};

use super::tree::{Document, Element};
use super::units;

/// The pool that an XML describes; state, autostart and the count of volumes keep their defaults.
pub fn parse_pool(xml: &str) -> Result<Pool> {
    let document = Document::parse(xml)?;
    let pool = expect(&document, "pool")?;
    let size = |name: &str| size(pool, name);
    Ok(Pool {
        uuid: pool
            .find_text("uuid")
            .and_then(|text| Uuid::parse_str(&text).ok())
            .unwrap_or_default(),
        name: pool.child("name").map(|name| name.text().into_owned()).unwrap_or_default(),
        r#type: pool.attr("type").map(|r#type| r#type.into_owned()).unwrap_or_default(),
        capacity_bytes: size("capacity"),
        allocation_bytes: size("allocation"),
        available_bytes: size("available"),
        target_path: pool.find_text("target/path"),
        ..Pool::default()
    })
}

/// The volume of `pool` that an XML describes; its users are not known here.
pub fn parse_volume(pool: &str, xml: &str) -> Result<Volume> {
    let document = Document::parse(xml)?;
    let volume = expect(&document, "volume")?;
    let text =
        |path: &str| volume.find(path).map(|found| found.text().into_owned()).unwrap_or_default();
    Ok(Volume {
        pool: pool.to_owned(),
        name: text("name"),
        key: text("key"),
        path: text("target/path"),
        r#type: volume.attr("type").map(|r#type| r#type.into_owned()).unwrap_or_default(),
        format: volume.find_attr("target/format", "type"),
        capacity_bytes: size(volume, "capacity"),
        allocation_bytes: size(volume, "allocation"),
        backing_path: volume.find_text("backingStore/path"),
        used_by: Vec::new(),
    })
}

fn expect<'d, 'a>(document: &'d Document<'a>, name: &str) -> Result<&'d Element<'a>> {
    let root = document.root();
    if root.is(name) {
        return Ok(root);
    }
    Err(Error::new(
        Kind::InvalidDefinition,
        format!("the XML describes a <{}>, not a <{name}>", root.name()),
    ))
}

fn size(element: &Element<'_>, name: &str) -> u64 {
    element.child(name).and_then(|size| units::bytes_of(size, 1)).unwrap_or_default()
}

/// A volume to be.
#[derive(Clone, Debug)]
pub struct VolumeSpec {
    pub name: String,
    pub capacity_bytes: u64,
    pub format: DiskFormat,
    /// Takes room as it is written. A logical pool's volume should not be: libvirt would make an
    /// LVM snapshot of it, which breaks when it is full.
    pub sparse: bool,
    /// Path and format of the file that what is not written yet is read from.
    pub backing: Option<(String, String)>,
}

/// The XML for `virStorageVolCreateXML` and `virStorageVolCreateXMLFrom`.
pub fn author_volume(spec: &VolumeSpec) -> Result<String> {
    let bytes =
        |name, size: u64| Element::new(name).with_attr("unit", "bytes").with_text(size.to_string());
    let format = |r#type: &str| Element::new("format").with_attr("type", r#type);
    let backing = spec.backing.as_ref().map(|(path, backing_format)| {
        Element::new("backingStore")
            .with_child(Element::new("path").with_text(path))
            .with_child(format(backing_format))
    });
    Element::new("volume")
        .with_child(Element::new("name").with_text(&spec.name))
        .with_child(bytes("capacity", spec.capacity_bytes))
        .with_child(bytes("allocation", if spec.sparse { 0 } else { spec.capacity_bytes }))
        .with_child(Element::new("target").with_child(format(spec.format.as_str())))
        .with_children(backing)
        .into_xml()
}
