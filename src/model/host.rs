//! The host, as libvirt's capabilities describe it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a new VM can be made of on this host, for one architecture. Each list is libvirt's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestCapabilities {
    pub architecture: String,
    pub emulator: String,
    /// `kvm`, `qemu`, `test`, …, in libvirt's order.
    pub domain_types: Vec<String>,
    /// Machine types, canonical names and aliases.
    pub machines: Vec<String>,
    /// The same with what libvirt tells of each.
    pub machine_types: Vec<MachineType>,
}

/// One machine type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineType {
    pub name: String,
    /// What an alias such as `q35` stands for; null for a name that stands for itself.
    pub canonical: Option<String>,
    pub deprecated: bool,
    pub max_vcpus: Option<u32>,
}

/// What the host is made of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostHardware {
    pub cpu: HostCpu,
    /// NUMA cells; at least one where libvirt tells any.
    pub numa: Vec<NumaCell>,
    /// Whether there is an IOMMU that devices can be passed through with.
    pub iommu: bool,
    /// `selinux`, `apparmor`, `dac`, …
    pub security_models: Vec<String>,
    /// How a guest can be migrated from here: `tcp`, `rdma`, …
    pub migration_transports: Vec<String>,
}

/// The host's processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostCpu {
    /// libvirt's name of the model.
    pub model: Option<String>,
    pub vendor: Option<String>,
    pub sockets: u32,
    /// Per socket.
    pub dies: u32,
    /// Per die.
    pub cores: u32,
    /// Per core.
    pub threads: u32,
    /// Beyond those of the model.
    pub features: Vec<String>,
    /// The sizes of pages that memory can come in.
    pub page_sizes_bytes: Vec<u64>,
}

/// One NUMA cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NumaCell {
    pub id: u32,
    pub memory_bytes: u64,
    pub cpus: Vec<u32>,
    /// The pages that memory is cut into, by their size, when libvirt started.
    pub pages: Vec<NumaPages>,
}

/// How many pages of one size a NUMA cell has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NumaPages {
    pub size_bytes: u64,
    pub count: u64,
}

/// One kind of device or feature that a guest can have, with its variants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capability {
    /// libvirt's word: `tpm`, `hostdev`, `filesystem`, …; `sev`, `hyperv`, `genid`, …
    pub name: String,
    pub supported: bool,
    /// What it can be, such as `model` with `tpm-tis` and `tpm-crb`.
    pub variants: Vec<Variants>,
}

/// The values of one property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Variants {
    pub name: String,
    pub values: Vec<String>,
}

/// A CPU model that a guest can be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuModel {
    pub name: String,
    /// Whether this host can run it; null where libvirt does not know.
    pub usable: Option<bool>,
    pub deprecated: bool,
}

/// What this host can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    pub architecture: String,
    pub guests: Vec<GuestCapabilities>,
    pub hardware: HostHardware,
    /// What the domain capabilities of the guest that was asked for say, else of the preferred one.
    pub preferred: DomainCapabilities,
    /// Why new VMs do not use KVM although libvirt may offer it; null where it works.
    pub kvm_obstacle: Option<String>,
    /// The types of storage pools that libvirt knows; empty if it does not tell.
    pub storage_pools: Vec<PoolTypeCapabilities>,
}

/// What libvirt can do with storage pools of one type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolTypeCapabilities {
    /// `dir`, `logical`, …
    pub r#type: String,
    /// Whether the storage driver for it is installed on this host.
    pub supported: bool,
    /// What `source.format` may be; empty if the type has none.
    pub source_formats: Vec<String>,
    pub default_source_format: Option<String>,
    /// What a volume's format may be; empty if the type has none.
    pub volume_formats: Vec<String>,
    pub default_volume_format: Option<String>,
}

/// `virConnectGetDomainCapabilities` of the emulator, machine and domain type that new VMs get.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DomainCapabilities {
    pub emulator: String,
    pub domain_type: String,
    pub machine: String,
    pub architecture: String,
    pub max_vcpus: u32,
    /// `bios`, `efi`.
    pub firmware: Vec<String>,
    /// `host-passthrough`, `host-model`, `maximum`, `custom`, where supported.
    pub cpu_modes: Vec<String>,
    pub disk_buses: Vec<String>,
    pub graphics: Vec<String>,
    pub video_models: Vec<String>,
    pub rng_backends: Vec<String>,
    pub has_tpm: bool,
    /// The firmware images that libvirt knows, as paths on the host.
    pub loaders: Vec<String>,
    /// Whether a firmware can enforce Secure Boot.
    pub secure_boot: bool,
    /// What `host-model` comes to on this host.
    pub host_model: Option<String>,
    /// What `custom` can name.
    pub cpu_models: Vec<CpuModel>,
    /// Every kind of device that libvirt tells of: `disk`, `graphics`, `tpm`, `hostdev`, …
    pub devices: Vec<Capability>,
    /// Every feature that libvirt tells of: `sev`, `hyperv`, `genid`, `launchSecurity`, …
    pub features: Vec<Capability>,
}

/// Whether libvirt answers, and since when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LibvirtStatus {
    pub uri: String,
    pub connected: bool,
    pub since: Timestamp,
    /// Why not, while it does not.
    pub reason: Option<String>,
    /// libvirt's version, `11.3.0`; null before the first connection.
    pub version: Option<String>,
    /// The hypervisor's version.
    pub hypervisor_version: Option<String>,
}
