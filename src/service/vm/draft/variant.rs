//! What a draft takes from libosinfo's knowledge of the guest, and what speaks against its size.

use crate::config::{Limits, MemoryOvercommit};
use crate::error::{Error, Kind, Result};
use crate::model::OsVariant;
use crate::model::host::Capabilities;
use crate::model::vm_request::DiskBus;

const MIB: u64 = 1 << 20;

/// The defaults for a guest.
pub(super) struct GuestOs<'a> {
    variant: Option<&'a OsVariant>,
    pub disk_bus: DiskBus,
    pub nic_model: &'static str,
}

impl<'a> GuestOs<'a> {
    /// virtio for guests with drivers for it and those of which nothing is known; else what every
    /// system has drivers for.
    pub(super) fn of(variant: Option<&'a OsVariant>, machine: &str) -> Self {
        let has = |class: &str| {
            variant.is_none_or(|os| {
                os.devices.is_empty()
                    || os.devices.iter().any(|d| d.starts_with("virtio") && d.ends_with(class))
            })
        };
        let disk_bus = match (has("block"), machine.contains("q35")) {
            (true, _) => DiskBus::Virtio,
            (false, true) => DiskBus::Sata,
            (false, false) => DiskBus::Ide,
        };
        let nic_model = match (has("net"), machine.contains("q35")) {
            (true, _) => "virtio",
            (false, true) => "e1000e",
            (false, false) => "e1000",
        };
        GuestOs { variant, disk_bus, nic_model }
    }

    /// Vapor's word for a guest whose clock must be set otherwise.
    pub(super) fn word(&self) -> Option<String> {
        let family = self.variant?.family.as_deref()?;
        family.starts_with("win").then(|| "windows".to_owned())
    }

    /// Says what the guest has less of than it needs.
    pub(super) fn needs(
        &self,
        architecture: &str,
        (vcpus, memory_mib): (u32, u64),
        warnings: &mut Vec<String>,
    ) {
        let Some(os) = self.variant else { return };
        let of = |wanted: &str| os.resources.iter().find(|need| need.architecture == wanted);
        let Some(least) = of(architecture).or_else(|| of("all")).and_then(|need| need.minimum)
        else {
            return;
        };
        if let Some(memory) = least.memory.filter(|memory| *memory > memory_mib) {
            warnings.push(format!(
                "{} needs at least {memory} MiB of memory, and the VM gets {memory_mib}",
                os.name
            ));
        }
        if let Some(needed) = least.vcpus.filter(|needed| *needed > vcpus) {
            warnings.push(format!(
                "{} needs at least {needed} virtual CPUs, and the VM gets {vcpus}",
                os.name
            ));
        }
    }
}

/// Warns of, or refuses, more memory than the host has.
///
/// # Errors
/// 422 if `[limits] memory_overcommit` is `refuse`.
pub(in crate::service::vm) fn overcommit(
    limits: &Limits,
    max_memory_mib: u64,
    capabilities: &Capabilities,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let host: u64 = capabilities.hardware.numa.iter().map(|cell| cell.memory_bytes).sum();
    let host_mib = host / MIB;
    if host == 0 || max_memory_mib <= host_mib {
        return Ok(());
    }
    let problem = format!("{max_memory_mib} MiB are more than the {host_mib} MiB of this host");
    match limits.memory_overcommit {
        MemoryOvercommit::Warn => {
            warnings.push(problem);
            Ok(())
        }
        MemoryOvercommit::Refuse => Err(Error::new(Kind::Impossible, format!("memory: {problem}"))
            .with_field("memory", problem)
            .with_hint("[limits] memory_overcommit in vapor.conf allows it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::host::NumaCell;
    use crate::model::os_variant::{OsResources, ResourceNeed};

    #[test]
    fn a_guest_gets_what_it_has_drivers_for() {
        let old = OsVariant { devices: vec!["e1000".to_owned()], ..OsVariant::default() };
        let new = OsVariant {
            devices: ["virtio1.0-net", "virtio1.0-block"].map(str::to_owned).to_vec(),
            ..OsVariant::default()
        };
        let get = |os, machine| {
            let os = GuestOs::of(os, machine);
            (os.disk_bus, os.nic_model)
        };
        assert_eq!(get(None, "q35"), (DiskBus::Virtio, "virtio"));
        assert_eq!(get(Some(&new), "q35"), (DiskBus::Virtio, "virtio"));
        assert_eq!(get(Some(&old), "pc-q35-10.0"), (DiskBus::Sata, "e1000e"));
        assert_eq!(get(Some(&old), "pc"), (DiskBus::Ide, "e1000"));
    }

    #[test]
    fn too_little_for_the_guest_is_said() {
        let need = ResourceNeed { vcpus: Some(2), memory: Some(512), ..ResourceNeed::default() };
        let os = OsVariant {
            name: "Big".to_owned(),
            resources: vec![OsResources {
                architecture: "all".to_owned(),
                minimum: Some(need),
                ..OsResources::default()
            }],
            ..OsVariant::default()
        };
        let mut warnings = Vec::new();
        let guest = GuestOs::of(Some(&os), "q35");
        guest.needs("x86_64", (1, 256), &mut warnings);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        guest.needs("x86_64", (2, 512), &mut warnings);
        assert_eq!(warnings.len(), 2);
    }

    #[test]
    fn more_memory_than_the_host_has_is_said_or_refused() {
        let mut capabilities = Capabilities::default();
        capabilities.hardware.numa =
            vec![NumaCell { memory_bytes: 1024 * MIB, ..NumaCell::default() }];
        let mut limits = Limits::default();
        let mut warnings = Vec::new();
        overcommit(&limits, 1024, &capabilities, &mut warnings).unwrap();
        assert!(warnings.is_empty());
        overcommit(&limits, 1025, &capabilities, &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        limits.memory_overcommit = MemoryOvercommit::Refuse;
        let error = overcommit(&limits, 1025, &capabilities, &mut warnings).unwrap_err();
        assert_eq!(error.kind(), Kind::Impossible);
    }
}
