//! What clients send to change VMs. Limits stand in the schema and are checked by
//! `service/vm/update`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::vm_request::{
    Bandwidth, BootDevice, ClockRequest, CpuRequest, DirectMode, DiskBus, DiskCache, DiskDiscard,
    DiskIo, FilesystemRequest, GraphicsRequest, MemoryRequest, PciAddress, SoundModel,
    VsockRequest, WatchdogRequest,
};
use super::{
    CloudInit, DeviceName, Firmware, LabelKey, LabelValue, NetworkName, NicSourceType,
    ResourceName, TpmRequest, VmName, VolumeRef,
};

/// The body of PUT and PATCH: what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateVm {
    /// Renames a stopped VM without snapshots and without a saved state.
    pub name: Option<VmName>,
    /// One line for people; empty to take it away.
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1F\x7F\uFFFE\uFFFF]*$")]
    pub title: Option<String>,
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
    /// Documents for the guest's cloud-init, read at its next boot; those that are absent stay. A VM
    /// without the disk for them gets it, unless it is transient.
    pub cloud_init: Option<CloudInit>,
    /// Changes to disks that the VM has; disks that are not named stay.
    #[schema(max_items = 32)]
    pub disks: Option<Vec<UpdateDisk>>,
    /// Changes to NICs that the VM has; NICs that are not named stay.
    #[schema(max_items = 16)]
    pub networks: Option<Vec<UpdateNic>>,
    /// What the machine is, with the next boot.
    pub os: Option<UpdateOs>,
    /// The processors. Pinning is live, the rest waits for the next boot; each part that is named
    /// is replaced as a whole, and empty takes it away.
    pub cpu: Option<CpuRequest>,
    /// How the memory is kept on the host, with the next boot.
    pub memory_options: Option<MemoryRequest>,
    /// What the guest's clock shows, from the next boot on.
    pub clock: Option<ClockRequest>,
    /// Devices, with the next boot.
    pub devices: Option<UpdateDevices>,
    /// Replaces all consoles, with the next boot.
    #[schema(max_items = 4)]
    pub graphics: Option<Vec<GraphicsRequest>>,
    /// An emulated TPM, with the next boot: `true` or which one; `false` takes it away.
    pub tpm: Option<TpmRequest>,
}

/// Changes to what the machine is: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateOs {
    /// Of the same kind: devices have their places in it.
    pub machine: Option<ResourceName>,
    /// From BIOS to UEFI. A firmware with variables of its own stays.
    pub firmware: Option<Firmware>,
    /// Goes with a change to UEFI.
    pub secure_boot: Option<bool>,
    /// Goes with a change to Secure Boot.
    pub enrolled_keys: Option<bool>,
    /// The system that is installed: an id or a short id of libosinfo's; empty to take it away. What
    /// the VM is made of stays.
    #[schema(max_length = 255)]
    pub variant: Option<String>,
    /// What to boot straight from volumes, as a whole; empty to take it away.
    pub direct_boot: Option<UpdateDirectBoot>,
}

/// Kernel, initial RAM disk and command line, without a boot loader; without a kernel none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateDirectBoot {
    pub kernel: Option<VolumeRef>,
    /// Goes with a kernel.
    pub initrd: Option<VolumeRef>,
    /// Goes with a kernel.
    #[schema(max_length = 2048, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub cmdline: Option<String>,
}

/// Changes to devices: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateDevices {
    /// The model of the first video device; the VM must have one, or get one by its consoles.
    pub video: Option<ResourceName>,
    pub sound: Option<SoundModel>,
    pub watchdog: Option<WatchdogRequest>,
    /// A random number generator.
    pub rng: Option<bool>,
    /// A socket between host and guest.
    pub vsock: Option<VsockRequest>,
    /// Replaces all directories of the host that are shared through virtiofs.
    #[schema(max_items = 16)]
    pub filesystems: Option<Vec<FilesystemRequest>>,
    /// Replaces all PCI devices of the host that are passed through.
    #[schema(max_items = 16, value_type = Option<Vec<crate::model::network_request::PciAddress>>)]
    pub pci: Option<Vec<PciAddress>>,
}

/// Changes to one disk: what is absent stays as it is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateDisk {
    /// The disk that is meant, such as `vda`.
    pub target: DeviceName,
    /// GiB, at least the present size. Live: a running guest sees it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65536)]
    pub size: Option<u64>,
    /// With the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// With the next boot; empty to take it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 36, pattern = "^[A-Za-z0-9_.+-]*$")]
    pub serial: Option<String>,
    /// With the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DiskCache>,
    /// With the next boot; `native` needs the cache `none` or `directsync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<DiskIo>,
    /// With the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<DiskDiscard>,
    /// The number of a thread of its own, for the bus `virtio`, with the next boot; 0 to take it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 64)]
    pub iothread: Option<u32>,
    /// With the next boot. The target follows: the next free one on the bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<DiskBus>,
    /// With the next boot; 0 to take it away. It takes the place of a list of boot devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 32)]
    pub boot_order: Option<u32>,
}

impl UpdateDisk {
    /// No change yet.
    pub fn of(target: DeviceName) -> Self {
        UpdateDisk {
            target,
            size: None,
            read_only: None,
            serial: None,
            cache: None,
            io: None,
            discard: None,
            iothread: None,
            bus: None,
            boot_order: None,
        }
    }
}

/// Changes to one NIC: what is absent stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateNic {
    /// The NIC that is meant.
    #[schema(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
    pub mac: String,
    /// The present type if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<NicSourceType>,
    /// The network, bridge or device. Live from one network or bridge to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NetworkName>,
    /// With the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ResourceName>,
    /// Plugs the cable in or out, live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_up: Option<bool>,
    /// What the guest may receive, live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<LimitChange>,
    /// What the guest may send, live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<LimitChange>,
    /// Keeps it from talking to other isolated NICs on the same bridge, live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// With the next boot; 0 to take it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 4094)]
    pub vlan: Option<u16>,
    /// How a direct NIC shares its device, with the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DirectMode>,
    /// With the next boot; 0 to take it away. It takes the place of a list of boot devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 32)]
    pub boot_order: Option<u32>,
}

/// A limit to one direction of a NIC's traffic, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// KiB per second; 0 to take the limit away.
    #[schema(maximum = 4294967295_u64)]
    pub average: u64,
    /// KiB per second in a burst; at least `average`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    pub peak: Option<u64>,
    /// KiB that may go at the speed of `peak`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    pub burst: Option<u64>,
}

impl LimitChange {
    /// The limit; none where it is taken away.
    pub fn limit(self) -> Option<Bandwidth> {
        let LimitChange { average, peak, burst } = self;
        (average > 0).then_some(Bandwidth { average, peak, burst })
    }
}
