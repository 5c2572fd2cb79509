//! Media of removable drives: what is in one is replaced, and nothing else of the definition.

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskBus;
use crate::xml::tree::{Document, Element};

use super::author::DiskSource;
use super::view;

/// The order of a disk's elements in libvirt's own output, as far as Vapor adds any.
const DISK_ORDER: &[&str] =
    &["driver", "auth", "source", "backingStore", "geometry", "blockio", "mirror", "target"];

/// What lies in a drive.
#[derive(Clone, Debug)]
pub struct Medium {
    pub source: DiskSource,
    /// `raw` for an image of a disc.
    pub format: String,
}

/// The definition with this medium in the drive `target`, or with the drive empty.
///
/// # Errors
/// `DiskNotFound` if there is no such drive; `InvalidDefinition` if `xml` is no domain.
pub fn with_medium(xml: &str, target: &str, medium: Option<&Medium>) -> Result<String> {
    let mut document = Document::parse(xml)?;
    put(drive_mut(document.root_mut(), target)?, medium);
    document.to_xml()
}

/// The drive alone with this medium, or empty: what `virDomainUpdateDeviceFlags` takes.
///
/// # Errors
/// Those of [`with_medium`].
pub fn drive_with(xml: &str, target: &str, medium: Option<&Medium>) -> Result<String> {
    let mut document = Document::parse(xml)?;
    let drive = drive_mut(document.root_mut(), target)?;
    put(drive, medium);
    drive.clone().into_xml()
}

/// The definition with the medium that the same drive has in `other`.
///
/// # Errors
/// Those of [`with_medium`], for both.
pub fn with_medium_of(xml: &str, other: &str, target: &str) -> Result<String> {
    let mut other = Document::parse(other)?;
    let model = drive_mut(other.root_mut(), target)?;
    let (kind, format) = (model.attr("type"), model.find_attr("driver", "type"));
    let kind = kind.map_or_else(|| "file".to_owned(), |kind| kind.into_owned());
    let source = model.child("source").cloned().map(|mut source| {
        // libvirt's number of the running node, which a definition has not.
        source.remove_attr("index");
        source
    });
    let mut document = Document::parse(xml)?;
    let drive = drive_mut(document.root_mut(), target)?;
    put_source(drive, &kind, format.as_deref(), source);
    document.to_xml()
}

/// The definition with one more optical drive.
///
/// # Errors
/// `InvalidDefinition` if `xml` is no domain.
pub fn with_drive(xml: &str, target: &str, bus: DiskBus, medium: &Medium) -> Result<String> {
    let mut document = Document::parse(xml)?;
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    let mut drive = Element::new("disk")
        .with_attr("type", "file")
        .with_attr("device", "cdrom")
        .with_child(Element::new("driver").with_attr("name", "qemu").with_attr("type", "raw"))
        .with_child(
            Element::new("target")
                .with_attr("dev", target.to_owned())
                .with_attr("bus", bus.as_str()),
        )
        .with_child(Element::new("readonly"));
    put(&mut drive, Some(medium));
    let devices = domain
        .child_mut("devices")
        .ok_or_else(|| Error::new(Kind::InvalidDefinition, "the definition has no <devices>"))?;
    devices.push_child(drive);
    document.to_xml()
}

fn drive_mut<'d, 'a>(domain: &'d mut Element<'a>, target: &str) -> Result<&'d mut Element<'a>> {
    view::expect_domain(domain)?;
    domain
        .child_mut("devices")
        .into_iter()
        .flat_map(Element::elements_mut)
        .find(|element| {
            element.is("disk") && element.find_attr("target", "dev").as_deref() == Some(target)
        })
        .ok_or_else(|| Error::new(Kind::DiskNotFound, format!("no drive {target:?}")))
}

pub(super) fn put(drive: &mut Element<'_>, medium: Option<&Medium>) {
    let (kind, source) = match medium.map(|medium| &medium.source) {
        Some(DiskSource::Volume { path, r#type, .. }) if r#type == "block" => {
            ("block", Some(Element::new("source").with_attr("dev", path.clone())))
        }
        Some(DiskSource::Volume { path, r#type, .. }) if r#type == "file" => {
            ("file", Some(Element::new("source").with_attr("file", path.clone())))
        }
        Some(DiskSource::Volume { pool, volume, .. }) => {
            let source = Element::new("source")
                .with_attr("pool", pool.clone())
                .with_attr("volume", volume.clone());
            ("volume", Some(source))
        }
        Some(DiskSource::File(path)) => {
            ("file", Some(Element::new("source").with_attr("file", path.clone())))
        }
        Some(DiskSource::Empty) | None => ("file", None),
    };
    put_source(drive, kind, medium.map(|medium| medium.format.as_str()), source);
}

fn put_source(
    drive: &mut Element<'_>,
    kind: &str,
    format: Option<&str>,
    source: Option<Element<'_>>,
) {
    let policy = drive.find_attr("source", "startupPolicy");
    drive.set_attr("type", kind);
    // What is known of the old medium's chain says nothing of the new one's.
    for name in ["source", "backingStore", "auth", "encryption"] {
        drive.remove_child(name);
    }
    if let Some(format) = format
        && let Some(driver) = drive.child_mut("driver")
    {
        driver.set_attr("type", format);
    }
    if let Some(source) = source {
        let mut source = owned(&source);
        if let Some(policy) = policy {
            source.set_attr("startupPolicy", policy);
        }
        drive.insert_child_in_order(source, DISK_ORDER);
    }
}

/// The same source as an element that borrows nothing from another document. Its attributes are all
/// there is of a file, a device or a volume.
fn owned(source: &Element<'_>) -> Element<'static> {
    ["file", "dev", "pool", "volume", "mode", "startupPolicy"].into_iter().fold(
        Element::new("source"),
        |element, name| {
            element.with_attr_if(name, source.attr(name).map(|value| value.into_owned()))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu'>
  <name>a</name>
  <!-- kept -->
  <devices>
    <disk type='file' device='disk'>
      <source file='/a.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='cdrom'>
      <driver name='qemu' type='raw' cache='none'/>
      <source dev='/dev/old' startupPolicy='optional' index='3'/>
      <backingStore/>
      <target dev='sda' bus='sata' tray='open'/>
      <readonly/>
      <alias name='sata0-0-0'/>
    </disk>
  </devices>
</domain>
";

    fn medium(r#type: &str) -> Medium {
        Medium {
            source: DiskSource::Volume {
                pool: "isos".to_owned(),
                volume: "x&y.iso".to_owned(),
                path: "/isos/x&y.iso".to_owned(),
                r#type: r#type.to_owned(),
            },
            format: "raw".to_owned(),
        }
    }

    #[test]
    fn a_medium_replaces_what_lay_in_the_drive_and_nothing_else() {
        let new = with_medium(XML, "sda", Some(&medium("file"))).unwrap();
        let wanted = XML
            .replace("type='block' device='cdrom'", "type='file' device='cdrom'")
            .replace(
                "<source dev='/dev/old' startupPolicy='optional' index='3'/>\n      <backingStore/>",
                "<source file='/isos/x&amp;y.iso' startupPolicy='optional'/>",
            );
        assert_eq!(new, wanted);
        let vm = view::parse(&new).unwrap();
        assert_eq!(vm.disks[1].source.as_deref(), Some("/isos/x&y.iso"));
    }

    #[test]
    fn an_ejected_drive_is_empty_and_stays() {
        let new = with_medium(XML, "sda", None).unwrap();
        let vm = view::parse(&new).unwrap();
        assert_eq!(vm.disks.len(), 2);
        assert_eq!((vm.disks[1].source.as_deref(), vm.disks[1].bus.as_str()), (None, "sata"));
        assert_eq!(vm.disks[0].source.as_deref(), Some("/a.qcow2"));
        assert_eq!(with_medium(&new, "sda", None).unwrap(), new);
    }

    #[test]
    fn the_drive_alone_is_an_element_of_its_own() {
        let drive = drive_with(XML, "sda", Some(&medium("block"))).unwrap();
        let document = Document::parse(&drive).unwrap();
        assert!(document.root().is("disk"), "{drive}");
        assert_eq!(document.root().find_attr("source", "dev").as_deref(), Some("/isos/x&y.iso"));
        assert_eq!(document.root().find_attr("alias", "name").as_deref(), Some("sata0-0-0"));
        let error = drive_with(XML, "sdb", None).unwrap_err();
        assert_eq!(error.kind(), Kind::DiskNotFound);
    }

    #[test]
    fn a_network_volume_is_named_by_its_pool() {
        let new = with_medium(XML, "sda", Some(&medium("network"))).unwrap();
        assert!(new.contains("<source pool='isos' volume='x&amp;y.iso' startupPolicy"), "{new}");
    }

    #[test]
    fn the_stored_drive_takes_up_again_what_the_running_one_has() {
        let changed = with_medium(XML, "sda", Some(&medium("file"))).unwrap();
        let back = with_medium_of(&changed, XML, "sda").unwrap();
        let disk = &view::parse(&back).unwrap().disks[1];
        assert_eq!(
            (disk.source_type.as_str(), disk.source.as_deref()),
            ("block", Some("/dev/old"))
        );
        assert!(!back.contains("index="), "{back}");
    }

    #[test]
    fn a_drive_is_added_with_its_medium() {
        let new = with_drive(XML, "sdb", DiskBus::Sata, &medium("file")).unwrap();
        let disk = &view::parse(&new).unwrap().disks[2];
        assert_eq!((disk.target.as_str(), disk.bus.as_str()), ("sdb", "sata"));
        assert_eq!(disk.source.as_deref(), Some("/isos/x&y.iso"));
        assert!(disk.read_only);
    }
}
