//! Volumes of storage pools.

use jiff::Timestamp;

use super::tree::{Document, Element};
use super::units::{bytes_of, size_of};
use crate::error::Result;
use crate::model::vm_request::DiskFormat;
use crate::model::{BackingFile, Volume, VolumePermissions};

/// The volume of `pool` that an XML describes; its users, and what is below its backing file, are
/// not known here.
pub fn parse_volume(pool: &str, xml: &str) -> Result<Volume> {
    let document = Document::parse(xml)?;
    let volume = document.expect("volume")?;
    let text =
        |path: &str| volume.find(path).map(|found| found.text().into_owned()).unwrap_or_default();
    let time = |name: &str| moment(&volume.find_text(&["target/timestamps", name].join("/"))?);
    let backing_path = volume.find_text("backingStore/path");
    let backing = backing_path.iter().map(|path| BackingFile {
        path: path.clone(),
        format: volume.find_attr("backingStore/format", "type"),
        ..BackingFile::default()
    });
    Ok(Volume {
        pool: pool.to_owned(),
        name: text("name"),
        key: text("key"),
        path: text("target/path"),
        r#type: volume.attr("type").map(|r#type| r#type.into_owned()).unwrap_or_default(),
        format: volume.find_attr("target/format", "type"),
        capacity_bytes: size_of(volume, "capacity"),
        allocation_bytes: size_of(volume, "allocation"),
        physical_bytes: volume.child("physical").and_then(|size| bytes_of(size, 1)),
        backing_chain: backing.collect(),
        backing_path,
        encryption: volume.find_attr("target/encryption", "format"),
        permissions: volume.find("target/permissions").map(permissions),
        accessed_at: time("atime"),
        modified_at: time("mtime"),
        changed_at: time("ctime"),
        created_at: time("btime"),
        ..Volume::default()
    })
}

fn permissions(element: &Element<'_>) -> VolumePermissions {
    let number = |name: &str| element.find_text(name)?.parse().ok();
    VolumePermissions {
        mode: element.find_text("mode").unwrap_or_default(),
        owner: number("owner").unwrap_or_default(),
        group: number("group").unwrap_or_default(),
        label: element.find_text("label"),
    }
}

/// libvirt writes seconds and nanoseconds with a point between them, and 0 for what it cannot tell.
fn moment(text: &str) -> Option<Timestamp> {
    let (seconds, nanoseconds) = text.split_once('.').unwrap_or((text, "0"));
    let seconds = seconds.parse().ok().filter(|seconds| *seconds > 0)?;
    Timestamp::new(seconds, nanoseconds.parse().ok()?).ok()
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

/// The XML for `virStorageVolCreateXML` and `virStorageVolCreateXMLFrom`. Raw is not said: it is what
/// libvirt makes where volumes have formats, and where they have none, such as partitions, it refuses
/// the word.
pub fn author_volume(spec: &VolumeSpec) -> Result<String> {
    let bytes =
        |name, size: u64| Element::new(name).with_attr("unit", "bytes").with_text(size.to_string());
    let format = |r#type: &str| Element::new("format").with_attr("type", r#type);
    let backing = spec.backing.as_ref().map(|(path, backing_format)| {
        Element::new("backingStore")
            .with_child(Element::new("path").with_text(path))
            .with_child(format(backing_format))
    });
    let target = Element::new("target");
    let target = match spec.format {
        // A partition has no such format, and a file is raw by itself.
        DiskFormat::Raw => target,
        DiskFormat::Qcow2 => target.with_child(format(spec.format.as_str())),
    };
    Element::new("volume")
        .with_child(Element::new("name").with_text(&spec.name))
        .with_child(bytes("capacity", spec.capacity_bytes))
        .with_child(bytes("allocation", if spec.sparse { 0 } else { spec.capacity_bytes }))
        .with_child(target)
        .with_children(backing)
        .into_xml()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

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
        let raw = VolumeSpec { format: DiskFormat::Raw, backing: None, ..spec() };
        assert!(!author_volume(&raw).unwrap().contains("format"), "a partition cannot be raw");
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
