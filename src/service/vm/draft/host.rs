//! What new VMs are made of on this host: guest, domain type, processor, machine.

use super::check::not_supported;
use crate::config::DomainType;
use crate::error::{Error, Kind, Result};
use crate::model::ResourceName;
use crate::model::host::{Capabilities, DomainCapabilities, GuestCapabilities};
use crate::service::kvm;

pub(in crate::service::vm) fn guest<'a>(
    capabilities: &'a Capabilities,
    architecture: Option<&ResourceName>,
    machine: Option<&ResourceName>,
) -> Result<&'a GuestCapabilities> {
    let wanted = architecture.map_or(capabilities.architecture.as_str(), ResourceName::as_str);
    let guest = capabilities
        .guests
        .iter()
        .find(|guest| guest.architecture == wanted)
        // Drivers without an emulator, such as the test driver, may name another architecture.
        .or_else(|| capabilities.guests.first().filter(|_| architecture.is_none()))
        .ok_or_else(|| {
            let known: Vec<_> =
                capabilities.guests.iter().map(|guest| guest.architecture.as_str()).collect();
            not_supported("os.architecture", format!("this host runs no {wanted} guests"))
                .with_hint(format!("this host runs {}", known.join(", ")))
        })?;
    if let Some(machine) = machine
        && !guest.machines.iter().any(|known| known == machine.as_str())
    {
        return Err(not_supported(
            "os.machine",
            format!("this host has no machine type {machine}"),
        )
        .with_detail("machines", guest.machines.clone()));
    }
    Ok(guest)
}

/// The domain type of new VMs: as configured, else KVM where it really works.
pub(in crate::service::vm) fn choose_domain_type(
    configured: DomainType,
    guest: &GuestCapabilities,
) -> Result<String> {
    let has = |wanted: &str| guest.domain_types.iter().any(|known| known == wanted);
    let wanted = match configured {
        DomainType::Kvm => "kvm",
        DomainType::Qemu => "qemu",
        DomainType::Auto if has("kvm") && kvm::obstacle().is_none() => "kvm",
        DomainType::Auto => {
            let other = guest.domain_types.iter().find(|known| *known != "kvm");
            return other.cloned().ok_or_else(|| {
                Error::new(
                    Kind::NotSupported,
                    "libvirt offers only KVM for new VMs, and KVM does not work on this host",
                )
                .with_detail("obstacle", kvm::obstacle().unwrap_or_default())
            });
        }
    };
    // A driver that knows neither, such as the test driver, decides for itself.
    if has(wanted) || !(has("kvm") || has("qemu")) {
        let kind = if has(wanted) { Some(wanted) } else { None };
        let first = guest.domain_types.first().map(String::as_str);
        return kind.or(first).map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::NotSupported, "libvirt offers no domain type for new VMs")
        });
    }
    Err(Error::new(
        Kind::NotSupported,
        format!("[libvirt] domain_type is {wanted:?}, which libvirt does not offer here"),
    ))
}

pub(in crate::service::vm) fn cpu_mode(
    domain_type: &str,
    preferred: Option<&DomainCapabilities>,
) -> Option<String> {
    let wanted: &[&str] = match domain_type {
        "kvm" => &["host-model", "host-passthrough"],
        "qemu" => &["maximum"],
        _ => &[],
    };
    let modes = preferred.map(|preferred| preferred.cpu_modes.as_slice()).unwrap_or_default();
    wanted
        .iter()
        .find(|mode| modes.iter().any(|known| known == *mode))
        .map(|mode| (*mode).to_owned())
}

/// Whether a name of a machine, which may be an alias such as `q35`, stands for this one.
pub(in crate::service::vm) fn is_machine(
    guest: &GuestCapabilities,
    name: &str,
    canonical: &str,
) -> bool {
    let stands_for = |known: &crate::model::host::MachineType| {
        known.name == name && known.canonical.as_deref() == Some(canonical)
    };
    name == canonical || guest.machine_types.iter().any(stands_for)
}

pub(in crate::service::vm) fn preferred_machine(
    guest: &GuestCapabilities,
    preferred: Option<&DomainCapabilities>,
) -> Option<String> {
    let q35 = guest.machines.iter().find(|machine| machine.as_str() == "q35");
    q35.cloned()
        .or_else(|| preferred.map(|preferred| preferred.machine.clone()))
        .filter(|machine| !machine.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_taken_only_as_configured_or_where_it_is_offered() {
        let guest = |types: &[&str]| GuestCapabilities {
            domain_types: types.iter().map(|t| (*t).to_owned()).collect(),
            ..GuestCapabilities::default()
        };
        let choose = |configured, types: &[&str]| choose_domain_type(configured, &guest(types));
        assert_eq!(choose(DomainType::Qemu, &["qemu", "kvm"]).unwrap(), "qemu");
        assert_eq!(choose(DomainType::Kvm, &["qemu", "kvm"]).unwrap(), "kvm");
        assert_eq!(choose(DomainType::Kvm, &["qemu"]).unwrap_err().kind(), Kind::NotSupported);
        assert_eq!(choose(DomainType::Auto, &["qemu"]).unwrap(), "qemu");
        assert_eq!(choose(DomainType::Qemu, &["test"]).unwrap(), "test");
    }
}
