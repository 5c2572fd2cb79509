//! What clients send to create and to change VMs. Limits stand in the schema and are checked by
//! `service/vm`, which turns each request into one validated specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DiskDevice, LabelKey, LabelValue, NicSourceType, ResourceName, VmName, VolumeRef};

/// The body of `POST V`: the flat form, the full form, or both where they do not speak of the same
/// thing (`disk_size` with `storage`, `network` with `networks` contradict each other).
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateVm {
    #[schema(required)]
    pub name: Option<VmName>,
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// MiB.
    #[schema(required, minimum = 16, maximum = 67108864)]
    pub memory: Option<u64>,
    /// MiB; the same as `memory` if absent.
    #[schema(minimum = 16, maximum = 67108864)]
    pub max_memory: Option<u64>,
    #[schema(required, minimum = 1, maximum = 1024)]
    pub vcpus: Option<u32>,
    #[schema(minimum = 1, maximum = 1024)]
    pub max_vcpus: Option<u32>,
    /// Flat form: GiB of a new qcow2 disk in `pool`.
    #[schema(minimum = 1, maximum = 65536)]
    pub disk_size: Option<u64>,
    /// Flat form: the pool of the disk; `default` if absent.
    pub pool: Option<ResourceName>,
    /// Flat form: the kind of guest, a word such as `linux` or `windows`.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9_.-]*$")]
    pub os_type: Option<String>,
    /// Flat form: one NIC.
    pub network: Option<FlatNetwork>,
    pub os: Option<OsRequest>,
    pub storage: Option<StorageRequest>,
    #[schema(max_items = 16)]
    pub networks: Option<Vec<NicRequest>>,
    #[schema(max_items = 4)]
    pub graphics: Option<Vec<GraphicsRequest>>,
    pub labels: Option<BTreeMap<LabelKey, LabelValue>>,
    /// Start with the host.
    pub autostart: Option<bool>,
    /// Start as soon as it is made.
    pub start: Option<bool>,
    /// Answers 422 `NOT_SUPPORTED` for now, whatever it holds.
    #[schema(value_type = Option<Object>)]
    pub cloud_init: Option<serde_json::Value>,
    /// Answers 422 `NOT_SUPPORTED` for now, whatever it holds.
    #[schema(value_type = Option<Object>)]
    pub template: Option<serde_json::Value>,
}

/// The body of `POST V/create-enhanced`: the full form alone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVmFull {
    pub name: VmName,
    #[serde(default)]
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// MiB.
    #[schema(minimum = 16, maximum = 67108864)]
    pub memory: u64,
    /// MiB; the same as `memory` if absent.
    #[serde(default)]
    #[schema(minimum = 16, maximum = 67108864)]
    pub max_memory: Option<u64>,
    #[schema(minimum = 1, maximum = 1024)]
    pub vcpus: u32,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1024)]
    pub max_vcpus: Option<u32>,
    #[serde(default)]
    pub os: Option<OsRequest>,
    #[serde(default)]
    pub storage: Option<StorageRequest>,
    #[serde(default)]
    #[schema(max_items = 16)]
    pub networks: Option<Vec<NicRequest>>,
    #[serde(default)]
    #[schema(max_items = 4)]
    pub graphics: Option<Vec<GraphicsRequest>>,
    #[serde(default)]
    pub labels: Option<BTreeMap<LabelKey, LabelValue>>,
    #[serde(default)]
    pub autostart: Option<bool>,
    #[serde(default)]
    pub start: Option<bool>,
    /// Answers 422 `NOT_SUPPORTED` for now, whatever it holds.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub cloud_init: Option<serde_json::Value>,
    /// Answers 422 `NOT_SUPPORTED` for now, whatever it holds.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub template: Option<serde_json::Value>,
}

impl From<CreateVmFull> for CreateVm {
    fn from(full: CreateVmFull) -> Self {
        CreateVm {
            name: Some(full.name),
            description: full.description,
            memory: Some(full.memory),
            max_memory: full.max_memory,
            vcpus: Some(full.vcpus),
            max_vcpus: full.max_vcpus,
            disk_size: None,
            pool: None,
            os_type: None,
            network: None,
            os: full.os,
            storage: full.storage,
            networks: full.networks,
            graphics: full.graphics,
            labels: full.labels,
            autostart: full.autostart,
            start: full.start,
            cloud_init: full.cloud_init,
            template: full.template,
        }
    }
}

/// The NIC of the flat form.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlatNetwork {
    #[serde(default)]
    pub r#type: NicSourceType,
    /// The network, bridge or device; the network `default` if absent.
    #[serde(default)]
    pub source: Option<ResourceName>,
    /// `virtio` if absent.
    #[serde(default)]
    pub model: Option<ResourceName>,
}

/// What to boot.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OsRequest {
    /// A word such as `linux` or `windows`; it is kept with the VM.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9_.-]*$")]
    pub r#type: Option<String>,
    /// A libosinfo short id or id, kept with the VM.
    #[schema(max_length = 255, pattern = "^[A-Za-z0-9_.:/-]*$")]
    pub variant: Option<String>,
    /// The host's own if absent.
    pub architecture: Option<ResourceName>,
    /// libvirt's preferred one (`q35` where there is one) if absent.
    pub machine: Option<ResourceName>,
    /// `bios` or absent; anything else answers 422 `NOT_SUPPORTED` for now.
    pub firmware: Option<ResourceName>,
    /// Boot devices in order: `hd`, `cdrom`, `network`, `fd`.
    #[schema(max_items = 4)]
    pub boot: Option<Vec<BootDevice>>,
    /// Boot a kernel straight from volumes.
    pub direct_boot: Option<DirectBoot>,
}

/// One boot device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    Hd,
    Cdrom,
    Network,
    Fd,
}

impl BootDevice {
    /// libvirt's word in `<boot dev=…/>`.
    pub const fn as_str(self) -> &'static str {
        match self {
            BootDevice::Hd => "hd",
            BootDevice::Cdrom => "cdrom",
            BootDevice::Network => "network",
            BootDevice::Fd => "fd",
        }
    }
}

/// Kernel, initial RAM disk and command line, without a boot loader.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectBoot {
    pub kernel: VolumeRef,
    #[serde(default)]
    pub initrd: Option<VolumeRef>,
    #[serde(default)]
    #[schema(max_length = 2048, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub cmdline: Option<String>,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskAction {
    /// A new, empty volume of `size` GiB.
    Create,
    /// An existing volume, used as it is.
    Attach,
    /// A new volume with the content of an existing one.
    Clone,
}

/// One disk to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
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
    #[serde(default)]
    #[schema(max_length = 36, pattern = "^[A-Za-z0-9_.+-]*$")]
    pub serial: Option<String>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
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

/// One NIC to be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicRequest {
    #[serde(default)]
    pub r#type: NicSourceType,
    /// The network, bridge or device; the network `default` if absent.
    #[serde(default)]
    pub source: Option<ResourceName>,
    /// `virtio` if absent.
    #[serde(default)]
    pub model: Option<ResourceName>,
    /// Chosen by libvirt if absent.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
    pub mac: Option<String>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 32)]
    pub boot_order: Option<u32>,
    /// Whether the link is up; up if absent.
    #[serde(default)]
    pub link_up: Option<bool>,
}

/// One graphical console to be; it listens on loopback.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphicsRequest {
    pub r#type: GraphicsType,
}

/// The kind of a graphical console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GraphicsType {
    Vnc,
    Spice,
    /// No graphics and no video device.
    None,
}

/// The body of PUT and PATCH: what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateVm {
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// MiB; live where the balloon allows it.
    #[schema(minimum = 16, maximum = 67108864)]
    pub memory: Option<u64>,
    /// MiB; with the next boot.
    #[schema(minimum = 16, maximum = 67108864)]
    pub max_memory: Option<u64>,
    /// Live where the machine allows it.
    #[schema(minimum = 1, maximum = 1024)]
    pub vcpus: Option<u32>,
    /// With the next boot.
    #[schema(minimum = 1, maximum = 1024)]
    pub max_vcpus: Option<u32>,
    /// Boot devices in order, with the next boot.
    #[schema(max_items = 4)]
    pub boot: Option<Vec<BootDevice>>,
    /// Start with the host.
    pub autostart: Option<bool>,
    /// Replaces all labels.
    pub labels: Option<BTreeMap<LabelKey, LabelValue>>,
}
