//! The disks of a new domain XML.

use super::boot;
use crate::model::DiskDevice;
use crate::model::vm_request::{DiskBus, DiskCache, DiskDiscard, DiskIo};
use crate::xml::tree::Element;

/// A disk to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSpec {
    pub device: DiskDevice,
    pub bus: DiskBus,
    /// Such as `vda`.
    pub target: String,
    /// libvirt's driver type, such as `qcow2` or `raw`; libvirt's default if absent.
    pub format: Option<String>,
    pub source: DiskSource,
    pub read_only: bool,
    pub serial: Option<String>,
    pub boot_order: Option<u32>,
    /// Whether other VMs may have it, too.
    pub shareable: bool,
    pub cache: Option<DiskCache>,
    pub io: Option<DiskIo>,
    /// `unmap` for what is writable if absent.
    pub discard: Option<DiskDiscard>,
    /// The number of the I/O thread that serves it.
    pub iothread: Option<u32>,
}

/// What is in a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DiskSource {
    /// A volume, with its type (`file`, `block`, …) and its path as libvirt tells them.
    Volume { pool: String, volume: String, path: String, r#type: String },
    /// A file on the host that libvirt named.
    File(String),
    /// No medium.
    #[default]
    Empty,
}

pub(in crate::xml::domain) fn disk(spec: &DiskSpec) -> Element<'static> {
    let device = match spec.device {
        DiskDevice::Disk => "disk",
        DiskDevice::Cdrom => "cdrom",
        DiskDevice::Floppy => "floppy",
        DiskDevice::Lun => "lun",
    };
    let (source_type, source) = match &spec.source {
        DiskSource::Volume { path, r#type, .. } if r#type == "file" => {
            ("file", Some(Element::new("source").with_attr("file", path)))
        }
        DiskSource::Volume { path, r#type, .. } if r#type == "block" => {
            ("block", Some(Element::new("source").with_attr("dev", path)))
        }
        // How a network volume is reached is the pool's knowledge.
        DiskSource::Volume { pool, volume, .. } => (
            "volume",
            Some(Element::new("source").with_attr("pool", pool).with_attr("volume", volume)),
        ),
        DiskSource::File(path) => ("file", Some(Element::new("source").with_attr("file", path))),
        DiskSource::Empty => ("file", None),
    };
    // What the guest frees is given back to the pool; a drive that is only read frees nothing.
    let writable = spec.device == DiskDevice::Disk && !spec.read_only;
    let driver = Element::new("driver")
        .with_attr("name", "qemu")
        .with_attr_if("type", spec.format.as_ref())
        .with_attr_if("cache", spec.cache.map(DiskCache::as_str))
        .with_attr_if("io", spec.io.map(DiskIo::as_str))
        .with_attr_if(
            "discard",
            spec.discard.or(writable.then_some(DiskDiscard::Unmap)).map(DiskDiscard::as_str),
        )
        .with_attr_if("iothread", spec.iothread.map(|number| number.to_string()));
    Element::new("disk")
        .with_attr("type", source_type)
        .with_attr("device", device)
        .with_child(driver)
        .with_children(source)
        .with_child(
            Element::new("target")
                .with_attr("dev", &spec.target)
                .with_attr("bus", spec.bus.as_str()),
        )
        .with_children(
            (spec.read_only || spec.device == DiskDevice::Cdrom).then(|| Element::new("readonly")),
        )
        .with_children(spec.shareable.then(|| Element::new("shareable")))
        .with_children(spec.serial.as_ref().map(|serial| Element::new("serial").with_text(serial)))
        .with_children(boot(spec.boot_order))
}
