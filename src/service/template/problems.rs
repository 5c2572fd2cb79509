//! What a template needs and is gone, and who needs the template: told by the picture.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::model::{
    CreateVm, DiskAction, NicSourceType, PoolState, ResourceName, TemplateProblem, VolumeRef,
};
use crate::service::inventory::Picture;
use crate::store::TemplateRow;

/// Everything that is missing.
pub(super) fn of(row: &TemplateRow, picture: &Picture) -> Vec<TemplateProblem> {
    let mut problems = Vec::new();
    let mut note = |field: String, found: Result<()>| {
        if let Err(error) = found {
            problems.push(TemplateProblem { field, problem: error.message().to_owned() });
        }
    };
    for (index, disk) in row.disks.iter().enumerate() {
        note(format!("disks[{index}]"), volume(picture, &disk.reference()));
    }
    let settings: CreateVm = match serde_json::from_value(row.settings.clone()) {
        Ok(settings) => settings,
        Err(error) => {
            let problem = format!("this version cannot read them: {error}");
            problems.push(TemplateProblem { field: "settings".to_owned(), problem });
            return problems;
        }
    };
    storage(&settings, picture, &mut note);
    let networks = settings.networks.iter().flatten().enumerate().map(|(index, nic)| {
        (format!("settings.networks[{index}].source"), nic.r#type, &nic.source)
    });
    let flat = settings.network.iter();
    let flat = flat.map(|nic| ("settings.network.source".to_owned(), nic.r#type, &nic.source));
    for (field, r#type, source) in networks.chain(flat) {
        if r#type == NicSourceType::Network {
            let name = source.as_ref().map_or("default", |name| name.as_str());
            note(field, picture.network(name).map(drop));
        }
    }
    machine(&settings, picture, &mut note);
    problems
}

fn storage(settings: &CreateVm, picture: &Picture, note: &mut impl FnMut(String, Result<()>)) {
    if settings.disk_size.is_some() {
        let name = settings.pool.as_ref().map_or("default", ResourceName::as_str);
        note("settings.pool".to_owned(), pool(picture, name));
    }
    let Some(storage) = &settings.storage else { return };
    let default = storage.default_pool.as_ref().map_or("default", ResourceName::as_str);
    for (index, disk) in storage.disks.iter().enumerate() {
        let field = |name: &str| format!("settings.storage.disks[{index}].{name}");
        let name = disk.pool.as_ref().map_or(default, ResourceName::as_str);
        if let Some(path) = &disk.path {
            let known = picture.paths.contains_key(path);
            let gone = || Error::new(Kind::VolumeNotFound, format!("no volume at {path:?}"));
            note(field("path"), if known { Ok(()) } else { Err(gone()) });
        }
        match disk.action {
            DiskAction::Create if disk.size.is_none() => {}
            DiskAction::Create => note(field("pool"), pool(picture, name)),
            DiskAction::Clone => {
                note(field("pool"), pool(picture, name));
                if let Some(source) = &disk.source {
                    note(field("source"), volume(picture, source));
                }
            }
            DiskAction::Attach => {
                if let Some(attached) = &disk.volume {
                    let attached = VolumeRef::new(name, attached.as_str());
                    note(field("volume"), volume(picture, &attached));
                }
            }
        }
    }
}

fn machine(settings: &CreateVm, picture: &Picture, note: &mut impl FnMut(String, Result<()>)) {
    let Some(os) = &settings.os else { return };
    if let Some(boot) = &os.direct_boot {
        note("settings.os.direct_boot.kernel".to_owned(), volume(picture, &boot.kernel));
        if let Some(initrd) = &boot.initrd {
            note("settings.os.direct_boot.initrd".to_owned(), volume(picture, initrd));
        }
    }
    let Some(capabilities) = &picture.capabilities else { return };
    let wanted =
        os.architecture.as_ref().map_or(capabilities.architecture.as_str(), ResourceName::as_str);
    let gone = |what: String| Err(Error::new(Kind::NotSupported, what));
    let guest = capabilities.guests.iter().find(|guest| guest.architecture == wanted);
    let Some(guest) = guest else {
        if os.architecture.is_some() {
            note(
                "settings.os.architecture".to_owned(),
                gone(format!("this host runs no {wanted} guests")),
            );
        }
        return;
    };
    if let Some(machine) = os.machine.as_ref().map(ResourceName::as_str)
        && !guest.machines.iter().any(|known| known == machine)
    {
        note(
            "settings.os.machine".to_owned(),
            gone(format!("this host has no machine type {machine}")),
        );
    }
}

fn pool(picture: &Picture, name: &str) -> Result<()> {
    match picture.pool(name)?.pool.state {
        PoolState::Inactive => {
            Err(Error::new(Kind::PoolInactive, format!("the pool {name:?} is not active")))
        }
        _ => Ok(()),
    }
}

fn volume(picture: &Picture, volume: &VolumeRef) -> Result<()> {
    pool(picture, &volume.pool)?;
    picture.volume(&volume.pool, &volume.volume).map(drop)
}

/// The VMs and the volumes that read from the template's images.
pub(super) fn users(row: &TemplateRow, picture: &Picture) -> (Vec<String>, Vec<String>) {
    let (mut vms, mut volumes) = (BTreeSet::new(), BTreeSet::new());
    for disk in &row.disks {
        let Ok(base) = picture.volume(&disk.pool, &disk.volume) else { continue };
        vms.extend(base.users());
        volumes.extend(base.backing_of.iter().map(ToString::to_string));
    }
    (vms.into_iter().collect(), volumes.into_iter().collect())
}
