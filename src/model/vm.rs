//! A virtual machine as the API shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Nic, RuntimeDetails, VolumeRef};

/// The state of a VM, after `virDomainState`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum VmState {
    /// The virtual CPUs run (libvirt's *running* and *blocked*).
    Running,
    /// The virtual CPUs are halted, memory is kept.
    Paused,
    /// The guest sleeps (libvirt's *pmsuspended*).
    Suspended,
    /// No QEMU process.
    #[default]
    Shutoff,
    /// The guest crashed, and its QEMU process is kept (`on_crash` preserve). Where it is not kept,
    /// a crashed guest is shut off.
    Crashed,
    /// The guest is on its way down (libvirt's *shutdown*).
    ShuttingDown,
}

impl VmState {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Suspended => "suspended",
            VmState::Shutoff => "shutoff",
            VmState::Crashed => "crashed",
            VmState::ShuttingDown => "shutting-down",
        }
    }

    /// Whether a QEMU process exists.
    pub const fn is_active(self) -> bool {
        match self {
            VmState::Running
            | VmState::Paused
            | VmState::Suspended
            | VmState::Crashed
            | VmState::ShuttingDown => true,
            VmState::Shutoff => false,
        }
    }
}

/// One virtual machine (a libvirt domain).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    pub uuid: Uuid,
    pub name: String,
    /// Free text; empty if there is none.
    pub description: String,
    pub state: VmState,
    /// libvirt's reason for the state, such as `booted`, `user`, `destroyed`, `crashed`.
    pub state_reason: String,
    /// Memory the guest has, MiB.
    pub memory: u64,
    /// Memory the guest can have without a restart, MiB.
    pub max_memory: u64,
    pub vcpus: u32,
    /// Virtual CPUs the guest can have without a restart.
    pub max_vcpus: u32,
    pub os: VmOs,
    pub disks: Vec<Disk>,
    pub networks: Vec<Nic>,
    pub graphics: Vec<Graphics>,
    /// Every other device, for show.
    pub devices: Vec<Device>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether a definition outlives its stop.
    pub persistent: bool,
    pub labels: BTreeMap<String, String>,
    /// Who made it, where Vapor did.
    pub owner: Option<String>,
    pub has_saved_state: bool,
    pub snapshot_count: u32,
    /// When Vapor made it, or first saw it.
    pub created_at: Option<Timestamp>,
    /// When this object last changed.
    pub updated_at: Option<Timestamp>,
    /// Grows with every change of this object; its `ETag` is made of it.
    pub generation: u64,
    /// Set while libvirt is away: how old the picture is.
    pub stale: Option<Stale>,
    /// What differs between the running VM and its next boot.
    pub pending: Option<Pending>,
    /// What is known of the running guest; null while it is stopped.
    #[serde(rename = "runtimeDetails")]
    pub runtime_details: Option<RuntimeDetails>,
}

/// What kind of machine it is and what it boots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmOs {
    /// libvirt's OS type: `hvm`, `exe`, `linux`, …
    pub r#type: String,
    pub architecture: String,
    /// The machine type, such as `pc-q35-10.0`.
    pub machine: String,
    /// `bios` or `efi`.
    pub firmware: String,
    /// Boot devices in order: `hd`, `cdrom`, `network`, `fd`.
    pub boot: Vec<String>,
    /// The libosinfo id, if the definition names one.
    pub variant: Option<String>,
    /// libvirt's domain type: `kvm`, `qemu`, `test`, `lxc`, …
    pub domain_type: String,
}

/// What a disk is to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskDevice {
    #[default]
    Disk,
    Cdrom,
    Floppy,
    Lun,
}

/// One disk of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// The name of the target, such as `vda`; it identifies the disk within the VM.
    pub target: String,
    pub device: DiskDevice,
    /// `virtio`, `sata`, `scsi`, `ide`, `usb`, …
    pub bus: String,
    /// libvirt's source type: `file`, `block`, `volume`, `network`, …; empty for an empty drive.
    pub source_type: String,
    /// The source's path or name; null for an empty drive.
    pub source: Option<String>,
    /// The volume behind the source, if a known pool holds it.
    pub volume: Option<VolumeRef>,
    /// `qcow2`, `raw`, …
    pub format: Option<String>,
    /// Virtual size, bytes; null where libvirt does not tell.
    pub capacity_bytes: Option<u64>,
    /// Bytes taken in the pool; null where libvirt does not tell.
    pub allocation_bytes: Option<u64>,
    pub read_only: bool,
    pub shareable: bool,
    pub boot_order: Option<u32>,
    pub serial: Option<String>,
}

/// One graphical console.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Graphics {
    /// `vnc`, `spice`, …
    pub r#type: String,
    /// The address it listens on.
    pub listen: Option<String>,
    /// The port while running; null while none is assigned.
    pub port: Option<u16>,
    pub autoport: bool,
}

/// A device that has no view of its own: what it is and how libvirt calls it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Device {
    /// The element's name in the domain XML: `controller`, `rng`, `channel`, `hostdev`, `tpm`, …
    pub kind: String,
    pub model: Option<String>,
    pub alias: Option<String>,
}

/// How old the picture is while libvirt is away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stale {
    /// When libvirt went away.
    pub since: Timestamp,
    /// When this object was last confirmed by libvirt.
    pub confirmed_at: Timestamp,
    pub reason: String,
}

/// What differs between the running VM and its next boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pending {
    pub changes: Vec<PendingChange>,
}

/// One field that changes with the next boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PendingChange {
    pub field: String,
    pub running: serde_json::Value,
    pub next_boot: serde_json::Value,
}
