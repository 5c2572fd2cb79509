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
}

/// What this host can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Capabilities {
    pub architecture: String,
    pub guests: Vec<GuestCapabilities>,
    /// What the domain capabilities of the preferred guest say.
    pub preferred: DomainCapabilities,
    /// Why new VMs do not use KVM although libvirt may offer it; null where it works.
    pub kvm_obstacle: Option<String>,
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
