//! A virtual machine as the API shows it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::vm_request::{
    ClockRequest, CpuRequest, DevicesRequest, DiskCache, DiskDiscard, DiskIo, MemoryRequest,
};
use super::{CloudInitState, IgnitionState, Nic, RuntimeDetails, Tpm, VolumeRef};

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
    /// One line for people; null if there is none.
    pub title: Option<String>,
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
    /// Its TPM; null if it has none.
    pub tpm: Option<Tpm>,
    /// Every other device, for show.
    pub devices: Vec<Device>,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Whether a definition outlives its stop.
    pub persistent: bool,
    pub labels: BTreeMap<String, String>,
    /// Who made it, where Vapor did.
    pub owner: Option<String>,
    /// What a guest with cloud-init is told, without the documents; null where there is nothing.
    pub cloud_init: Option<CloudInitState>,
    /// What a guest with Ignition is told, without the config; null where there is nothing.
    pub ignition: Option<IgnitionState>,
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
    /// The processors, in the words of creation, as far as the definition says something of them.
    /// Like the rest below it is shown for one VM, not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Box<CpuRequest>>,
    /// How the memory is kept on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_options: Option<MemoryRequest>,
    /// What the guest's clock shows, where creation has a word for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockRequest>,
    /// The devices that creation makes by request, as far as it has words for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Box<DevicesRequest>>,
}

impl Vm {
    /// Leaves out what only the reply about one VM shows.
    pub fn strip_details(&mut self) {
        self.take_details(&mut Vm::default());
    }

    /// Takes over from `told`, another reading of the same VM, what only the reply about one VM
    /// shows. Disks are the same by their target, NICs by their MAC.
    pub fn take_details(&mut self, told: &mut Vm) {
        self.cpu = told.cpu.take();
        self.memory_options = told.memory_options.take();
        self.clock = told.clock.take();
        self.hardware = told.hardware.take();
        self.os.direct_boot = told.os.direct_boot.take();
        for disk in &mut self.disks {
            let same = told.disks.iter().find(|same| same.target == disk.target);
            disk.cache = same.and_then(|same| same.cache);
            disk.io = same.and_then(|same| same.io);
            disk.discard = same.and_then(|same| same.discard);
            disk.iothread = same.and_then(|same| same.iothread);
        }
        for nic in &mut self.networks {
            let same = told.networks.iter().find(|same| same.mac == nic.mac);
            nic.mode = same.and_then(|same| same.mode);
            nic.vlan = same.and_then(|same| same.vlan);
            nic.inbound = same.and_then(|same| same.inbound);
            nic.outbound = same.and_then(|same| same.outbound);
            nic.isolated = same.and_then(|same| same.isolated);
        }
    }
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
    /// Whether the firmware has Secure Boot. It is in force if keys are enrolled as well.
    pub secure_boot: bool,
    /// Whether the firmware's variables began with keys enrolled; null where the definition does not
    /// say. What the guest has done to its variables since, only the guest knows.
    pub enrolled_keys: Option<bool>,
    /// The file of the firmware's variables on the host; null if there is none.
    pub nvram: Option<String>,
    /// Boot devices in order: `hd`, `cdrom`, `network`, `fd`.
    pub boot: Vec<String>,
    /// The libosinfo id, if the definition names one.
    pub variant: Option<String>,
    /// What it boots without a boot loader; only where one VM is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct_boot: Option<Box<VmDirectBoot>>,
    /// libvirt's domain type: `kvm`, `qemu`, `test`, `lxc`, …
    pub domain_type: String,
}

/// What a VM boots without a boot loader: paths on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmDirectBoot {
    pub kernel: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
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
    /// What QEMU does with the host's page cache. Like the rest below it is shown for one VM, not in
    /// lists, and absent where libvirt's default holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DiskCache>,
    /// How QEMU asks the host's kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<DiskIo>,
    /// What becomes of blocks that the guest frees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<DiskDiscard>,
    /// The number of the I/O thread that serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<u32>,
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
