//! Storage pools and volumes.

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskFormat;
use crate::model::{Pool, Volume};

use super::tree::{Document, Element, shown};
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
        format!("the XML describes a <{}>, not a <{name}>", shown(root.name())),
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_pool_is_read_with_its_sizes() {
        let pool = parse_pool(
            "<pool type='dir'>
  <name>a &amp; b</name>
  <uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>
  <capacity unit='bytes'>107374182400</capacity>
  <allocation unit='KiB'>4</allocation>
  <available>107374178304</available>
  <source>
  </source>
  <target>
    <path>/var/lib/libvirt/images</path>
    <permissions><mode>0711</mode></permissions>
  </target>
</pool>",
        )
        .unwrap();
        assert_eq!((pool.name.as_str(), pool.r#type.as_str()), ("a & b", "dir"));
        assert_eq!(pool.uuid.to_string(), "dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566");
        assert_eq!(
            (pool.capacity_bytes, pool.allocation_bytes, pool.available_bytes),
            (107_374_182_400, 4096, 107_374_178_304)
        );
        assert_eq!(pool.target_path.as_deref(), Some("/var/lib/libvirt/images"));
    }

    #[test]
    fn a_pool_without_a_place_on_the_host_has_none() {
        let pool = parse_pool(
            "<pool type='rbd'><name>p</name><source><host name='h'/><name>rbd</name></source></pool>",
        )
        .unwrap();
        assert_eq!((pool.name.as_str(), pool.target_path), ("p", None));
        assert_eq!(pool.capacity_bytes, 0);
    }

    #[test]
    fn a_volume_is_read_with_its_backing_file() {
        let volume = parse_volume(
            "default",
            "<volume type='file'>
  <name>web.qcow2</name>
  <key>/images/web.qcow2</key>
  <capacity unit='bytes'>10737418240</capacity>
  <allocation unit='bytes'>200704</allocation>
  <physical unit='bytes'>196616</physical>
  <target>
    <path>/images/web.qcow2</path>
    <format type='qcow2'/>
  </target>
  <backingStore>
    <path>/images/base.qcow2</path>
    <format type='qcow2'/>
  </backingStore>
</volume>",
        )
        .unwrap();
        assert_eq!((volume.pool.as_str(), volume.name.as_str()), ("default", "web.qcow2"));
        assert_eq!(
            (volume.key.as_str(), volume.path.as_str()),
            ("/images/web.qcow2", "/images/web.qcow2")
        );
        assert_eq!((volume.r#type.as_str(), volume.format.as_deref()), ("file", Some("qcow2")));
        assert_eq!((volume.capacity_bytes, volume.allocation_bytes), (10_737_418_240, 200_704));
        assert_eq!(volume.backing_path.as_deref(), Some("/images/base.qcow2"));
    }

    #[test]
    fn another_document_is_refused() {
        assert!(parse_pool("<volume/>").is_err());
        assert!(parse_volume("p", "<pool/>").is_err());
    }

    fn spec() -> VolumeSpec {
        VolumeSpec {
            name: "<a> & 'b'".to_owned(),
            capacity_bytes: 10 << 30,
            format: DiskFormat::Qcow2,
            sparse: true,
            backing: Some(("/images/b&c".to_owned(), "raw".to_owned())),
        }
    }

    #[test]
    fn an_authored_volume_reads_as_it_was_specified() {
        let volume = parse_volume("p", &author_volume(&spec()).unwrap()).unwrap();
        assert_eq!(volume.name, "<a> & 'b'");
        assert_eq!((volume.capacity_bytes, volume.allocation_bytes), (10 << 30, 0));
        assert_eq!(volume.format.as_deref(), Some("qcow2"));
        assert_eq!(volume.backing_path.as_deref(), Some("/images/b&c"));
        let full = VolumeSpec { sparse: false, backing: None, ..spec() };
        let volume = parse_volume("p", &author_volume(&full).unwrap()).unwrap();
        assert_eq!((volume.allocation_bytes, volume.backing_path), (10 << 30, None));
    }

    #[test]
    fn libvirts_schema_accepts_what_is_authored() {
        if Command::new("virt-xml-validate").arg("--version").output().is_err() {
            println!("skipped: needs virt-xml-validate");
            return;
        }
        let plain = VolumeSpec {
            name: "web1.raw".to_owned(),
            format: DiskFormat::Raw,
            backing: None,
            ..spec()
        };
        for spec in [spec(), plain] {
            let mut child = Command::new("virt-xml-validate")
                .args(["-", "storagevol"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let xml = author_volume(&spec).unwrap();
            child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}\n{xml}");
        }
    }
}
