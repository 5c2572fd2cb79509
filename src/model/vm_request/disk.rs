//! The disks of a VM that is to be made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{DiskDevice, ResourceName, VolumeRef};

/// The disks of the full form.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageRequest {
    /// The pool of disks that name none; `default` if absent.
    pub default_pool: Option<ResourceName>,
    #[schema(max_items = 32)]
    pub disks: Vec<DiskRequest>,
}

/// Where a disk comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskAction {
    #[default]
    /// A new, empty volume of `size` GiB.
    Create,
    /// An existing volume, used as it is.
    Attach,
    /// A new volume with the content of an existing one.
    Clone,
}

/// One disk to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskRequest {
    pub action: DiskAction,
    /// `create`: GiB, required. `clone`: GiB, at least the source's; the source's if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65536)]
    pub size: Option<u64>,
    /// `qcow2` (if absent) or `raw`, for new volumes.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// The pool of the new volume, or of the attached one.
    #[serde(default)]
    pub pool: Option<ResourceName>,
    /// The name of the new volume (made from the VM's name if absent), or of the attached one.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub volume: Option<String>,
    /// `attach` and `clone`: the path of a volume in a known pool, instead of `pool` and `volume`.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub path: Option<String>,
    /// `clone`: the volume to copy.
    #[serde(default)]
    pub source: Option<VolumeRef>,
    /// `clone`: a copy on write, on top of the source, which must not change any more.
    #[serde(default, skip_serializing_if = "is_false")]
    pub linked: bool,
    /// `attach` and `clone`: an image of the ISO library, by id or name, instead of a volume.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub iso: Option<String>,
    /// The name of the target, such as `vdb`; the next free one on the bus if absent.
    #[serde(default)]
    #[schema(pattern = "^(vd|sd|hd|fd)[a-z]{1,2}$")]
    pub target: Option<String>,
    #[serde(default)]
    pub device: DiskDevice,
    /// `virtio` if absent (`sata` for a CD drive, `fdc` for a floppy drive).
    #[serde(default)]
    pub bus: Option<DiskBus>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 32)]
    pub boot_order: Option<u32>,
    #[serde(default)]
    pub read_only: bool,
    /// `attach`: other VMs may have the same volume, and write to it; the guests must know how.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shareable: bool,
    /// QEMU's default (`writeback`) if absent.
    #[serde(default)]
    pub cache: Option<DiskCache>,
    /// QEMU's default (`threads`) if absent; `native` needs the cache `none` or `directsync`.
    #[serde(default)]
    pub io: Option<DiskIo>,
    /// What becomes of blocks that the guest frees: `unmap` for writable disks if absent.
    #[serde(default)]
    pub discard: Option<DiskDiscard>,
    /// A thread of its own for this disk, by its number; disks may share one. For the bus `virtio`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 64)]
    pub iothread: Option<u32>,
    #[serde(default)]
    #[schema(max_length = 36, pattern = "^[A-Za-z0-9_.+-]*$")]
    pub serial: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

words! {
    /// What QEMU does with the host's page cache.
    DiskCache { None = "none", Writethrough = "writethrough", Writeback = "writeback",
        Directsync = "directsync", Unsafe = "unsafe" }
    /// How QEMU asks the host's kernel.
    DiskIo { Native = "native", Threads = "threads", IoUring = "io_uring" }
    /// What becomes of blocks that the guest frees.
    DiskDiscard { Unmap = "unmap", Ignore = "ignore" }
}

/// The format of a new volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    #[default]
    Qcow2,
    Raw,
}

impl DiskFormat {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "raw",
        }
    }
}

/// The bus a disk sits on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    #[default]
    Virtio,
    Scsi,
    Sata,
    Ide,
    Usb,
    Fdc,
}

impl DiskBus {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            DiskBus::Virtio => "virtio",
            DiskBus::Scsi => "scsi",
            DiskBus::Sata => "sata",
            DiskBus::Ide => "ide",
            DiskBus::Usb => "usb",
            DiskBus::Fdc => "fdc",
        }
    }
}
