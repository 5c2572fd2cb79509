//! Devices by request, and the clock of a draft.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::check::{clash, not_supported};
use crate::error::{Error, Result};
use crate::model::host::DomainCapabilities;
use crate::model::vm_request::{
    ClockOffset, ClockRequest, DevicesRequest, FilesystemRequest, PciAddress, SoundModel,
    VsockRequest, WatchdogAction, WatchdogModel, WatchdogRequest,
};
use crate::xml::domain::author::{ClockSpec, DeviceSpecs, FilesystemSpec, VsockSpec};

/// The devices.
///
/// # Errors
/// 400 for what is out of range; 422 for what contradicts itself, what this host cannot do, and
/// directories that the configuration does not allow.
pub(in crate::service::vm) fn devices(
    request: &DevicesRequest,
    machine: &str,
    preferred: Option<&DomainCapabilities>,
    roots: &[PathBuf],
) -> Result<DeviceSpecs> {
    let watchdog = request.watchdog.as_ref().map(|wanted| watchdog(wanted, machine)).transpose()?;
    let sound = request.sound.map(|wanted| sound(wanted, machine)).transpose()?;
    let vsock = request.vsock.as_ref().map(vsock).transpose()?;
    let pci = request.pci.clone().unwrap_or_default();
    check_pci(&pci)?;
    let filesystems =
        filesystems(request.filesystems.as_deref().unwrap_or_default(), preferred, roots)?;
    Ok(DeviceSpecs {
        sound: sound.flatten(),
        watchdog: watchdog.flatten(),
        vsock,
        filesystems,
        pci,
    })
}

/// Holds devices of the host to what can be passed through at once.
///
/// # Errors
/// 400 for too many; 422 for one that is there twice.
pub(in crate::service::vm) fn check_pci(pci: &[PciAddress]) -> Result<()> {
    if pci.len() > 16 {
        return Err(Error::field("devices.pci", "has more than 16 entries"));
    }
    let mut seen = HashSet::new();
    match pci.iter().find(|address| !seen.insert(**address)) {
        Some(twice) => Err(clash("devices.pci", format!("{twice} is there twice"))),
        None => Ok(()),
    }
}

/// The directories that are shared.
///
/// # Errors
/// 400 for what is out of range; 422 for what is there twice, for directories that the configuration
/// does not allow, and where this host has no virtiofs.
pub(in crate::service::vm) fn filesystems(
    wanted: &[FilesystemRequest],
    preferred: Option<&DomainCapabilities>,
    roots: &[PathBuf],
) -> Result<Vec<FilesystemSpec>> {
    if wanted.len() > 16 {
        return Err(Error::field("devices.filesystems", "has more than 16 entries"));
    }
    if !wanted.is_empty() && !has_virtiofs(preferred) {
        return Err(not_supported("devices.filesystems", "this host has no virtiofs")
            .with_hint("install virtiofsd on the host"));
    }
    let mut tags = HashSet::new();
    let check = |(index, wanted): (usize, &FilesystemRequest)| {
        let field = |name: &str| format!("devices.filesystems[{index}].{name}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !(1..=35).contains(&wanted.tag.len()) || !wanted.tag.chars().all(plain) {
            return Err(Error::field(field("tag"), "is not a tag of at most 35 letters"));
        }
        if !tags.insert(wanted.tag.clone()) {
            return Err(clash(field("tag"), "is there twice"));
        }
        filesystem(&field("source"), wanted, roots)
    };
    wanted.iter().enumerate().map(check).collect()
}

/// The watchdog; none if none is asked for by name.
pub(in crate::service::vm) fn watchdog(
    wanted: &WatchdogRequest,
    machine: &str,
) -> Result<Option<(WatchdogModel, WatchdogAction)>> {
    let pcie = machine.contains("q35");
    let built_in = if pcie { WatchdogModel::Itco } else { WatchdogModel::I6300esb };
    match wanted.model.unwrap_or(built_in) {
        WatchdogModel::None if wanted.action.is_some() => {
            Err(clash("devices.watchdog.action", "is for a watchdog that is there"))
        }
        WatchdogModel::None => Ok(None),
        WatchdogModel::Itco if !pcie => {
            Err(clash("devices.watchdog.model", "itco is part of q35 machines"))
        }
        model => Ok(Some((model, wanted.action.unwrap_or(WatchdogAction::Reset)))),
    }
}

/// The sound device; none if none is asked for by name.
pub(in crate::service::vm) fn sound(
    wanted: SoundModel,
    machine: &str,
) -> Result<Option<SoundModel>> {
    match wanted {
        SoundModel::None => Ok(None),
        SoundModel::Ich9 if machine.starts_with("virt") => {
            Err(clash("devices.sound", "ich9 is no sound device of this machine"))
        }
        model => Ok(Some(model)),
    }
}

/// The socket between host and guest.
pub(in crate::service::vm) fn vsock(wanted: &VsockRequest) -> Result<VsockSpec> {
    if wanted.cid.is_some_and(|cid| cid < 3) {
        return Err(Error::field("devices.vsock.cid", "must be between 3 and 4294967295"));
    }
    Ok(VsockSpec { cid: wanted.cid })
}

fn has_virtiofs(preferred: Option<&DomainCapabilities>) -> bool {
    let Some(devices) = preferred.map(|preferred| preferred.devices.as_slice()) else {
        return true;
    };
    let known = devices.iter().find(|device| device.name == "filesystem");
    known.is_none_or(|device| {
        device.supported
            && device.variants.iter().any(|kind| kind.values.iter().any(|v| v == "virtiofs"))
    })
}

/// A directory without links in its path, so that none leads out of what is allowed.
fn filesystem(
    field: &str,
    wanted: &FilesystemRequest,
    roots: &[PathBuf],
) -> Result<FilesystemSpec> {
    let refused = || {
        not_supported(field, "is not below a directory that may be shared with guests")
            .with_hint("[security] virtiofs_roots in vapor.conf lists what may be shared")
    };
    if wanted.source.len() > 4096 {
        return Err(Error::field(field, "has more than 4096 characters"));
    }
    let path = Path::new(&wanted.source);
    if !path.is_absolute() || roots.is_empty() {
        return Err(refused());
    }
    // Whether it is there is told only to those who might share it.
    let real = std::fs::canonicalize(path).map_err(|_| refused())?;
    let allowed = roots
        .iter()
        .any(|root| std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root)));
    match real.to_str() {
        Some(source) if allowed && real.is_dir() => Ok(FilesystemSpec {
            source: source.to_owned(),
            tag: wanted.tag.clone(),
            read_only: wanted.read_only,
        }),
        _ => Err(refused()),
    }
}

/// The clock.
pub(in crate::service::vm) fn clock(request: &ClockRequest) -> Result<ClockSpec> {
    let zone = request.timezone.as_deref().filter(|zone| !zone.is_empty());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+/-".contains(c);
    if zone.is_some_and(|zone| zone.len() > 64 || !zone.chars().all(plain)) {
        return Err(Error::field("clock.timezone", "is not the name of a time zone"));
    }
    let offset = match (request.offset, zone) {
        (Some(ClockOffset::Timezone), None) => {
            return Err(clash("clock.timezone", "is required for the offset timezone"));
        }
        (Some(ClockOffset::Utc | ClockOffset::Localtime), Some(_)) => {
            return Err(clash("clock.timezone", "is for the offset timezone"));
        }
        (None, Some(_)) => Some(ClockOffset::Timezone),
        (offset, _) => offset,
    };
    Ok(ClockSpec { offset, timezone: zone.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn only_directories_below_a_root_are_shared_and_no_link_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let roots = [root.path().to_owned()];
        let share = |path: &Path, roots: &[PathBuf]| {
            let wanted = FilesystemRequest {
                source: path.to_str().unwrap().to_owned(),
                tag: "t".to_owned(),
                read_only: false,
            };
            filesystem("source", &wanted, roots)
        };
        assert!(share(&root.path().join("in"), &roots).is_ok());
        for path in [
            root.path().join("link"),
            root.path().join("in/../.."),
            root.path().join("none"),
            outside.path().to_owned(),
            PathBuf::from("in"),
        ] {
            assert_eq!(share(&path, &roots).unwrap_err().kind(), Kind::NotSupported, "{path:?}");
        }
        assert!(share(&root.path().join("in"), &[]).is_err());
    }

    #[test]
    fn a_time_zone_goes_with_its_offset_alone() {
        let zone = |offset, zone: Option<&str>| {
            clock(&ClockRequest { offset, timezone: zone.map(str::to_owned) })
        };
        assert_eq!(zone(None, Some("Europe/Berlin")).unwrap().offset, Some(ClockOffset::Timezone));
        assert!(zone(Some(ClockOffset::Utc), Some("Europe/Berlin")).is_err());
        assert!(zone(Some(ClockOffset::Timezone), None).is_err());
        assert!(zone(None, Some("<x>")).is_err());
    }
}
