//! What stands against work on a volume, found out before anything is touched.

use std::sync::Arc;

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskFormat;
use crate::model::volume_request::MAX_CAPACITY;
use crate::model::{Disk, DiskDevice, Pool, PoolState, VmState, VolumeUse};
use crate::service::Context;
use crate::service::inventory::{Picture, PoolRecord, VmRecord, VolumeRecord};

const GIB: u64 = 1 << 30;
const MAX_GIB: u64 = 65_536;

/// The capacity that a request names in GiB or in bytes, and the field it is named in.
pub(super) fn capacity(
    size: Option<u64>,
    capacity_bytes: Option<u64>,
) -> Result<(u64, &'static str)> {
    match (size, capacity_bytes) {
        (Some(_), Some(_)) => Err(Error::new(
            Kind::Impossible,
            "size and capacity_bytes both name the capacity: say one of them",
        )
        .with_field("capacity_bytes", "contradicts size: say one of them")),
        (None, None) => {
            Err(Error::new(Kind::Impossible, "neither size nor capacity_bytes names the capacity")
                .with_field("capacity_bytes", "is required, or size"))
        }
        (Some(size), None) if (1..=MAX_GIB).contains(&size) => Ok((size * GIB, "size")),
        (Some(_), None) => {
            Err(Error::field("size", format!("must be between 1 and {MAX_GIB} GiB")))
        }
        (None, Some(bytes)) if (1..=MAX_CAPACITY).contains(&bytes) => Ok((bytes, "capacity_bytes")),
        (None, Some(_)) => {
            Err(Error::field("capacity_bytes", format!("must be between 1 and {MAX_CAPACITY}")))
        }
    }
}

/// 409 unless the pool is active.
pub(crate) fn active(record: &PoolRecord) -> Result<()> {
    if record.pool.state == PoolState::Inactive {
        let name = &record.pool.name;
        return Err(Error::new(Kind::PoolInactive, format!("the pool {name:?} is not active")));
    }
    Ok(())
}

/// Whether the pool's volumes are files, so that they can have any format.
pub(crate) fn holds_files(pool: &Pool) -> bool {
    matches!(pool.r#type.as_str(), "dir" | "fs" | "netfs" | "gluster" | "vstorage")
}

/// Whether a new volume may have this name in this pool.
pub(crate) fn new_name(record: &PoolRecord, name: &str) -> Result<()> {
    active(record)?;
    let pool = &record.pool;
    let plain = |c: char| c.is_ascii_alphanumeric() || "+_.-".contains(c);
    if pool.r#type == "logical"
        && (name.starts_with('-') || name.len() > 127 || !name.chars().all(plain))
    {
        return Err(Error::new(
            Kind::InvalidName,
            format!(
                "LVM has no volume named {name:?}, and the pool {:?} is one of LVM's",
                pool.name
            ),
        )
        .with_field("name", "is not a name for a logical volume")
        .with_hint("use letters, digits, '.', '_', '+' and '-'"));
    }
    if record.volume(name).is_some() {
        return Err(Error::new(
            Kind::VolumeAlreadyExists,
            format!("the pool {:?} has a volume {name:?} already", pool.name),
        ));
    }
    if pool.r#type == "disk"
        && let Some(device) = pool.source.devices.first()
        && let Some(next) = next_partition(&device.path, |name| record.volume(name).is_some())
        && next != name
    {
        return Err(Error::new(
            Kind::Impossible,
            format!("the next partition of the pool {:?} has the name {next:?}", pool.name),
        )
        .with_field("name", format!("must be {next}")));
    }
    Ok(())
}

/// The name of the next partition of a disk, the only one that libvirt takes. It looks at the name
/// when the partition is made already, and leaves that on the disk.
fn next_partition(device: &str, taken: impl Fn(&str) -> bool) -> Option<String> {
    // Partitions are called after the kernel's name for the disk.
    let path = std::fs::canonicalize(device).unwrap_or_else(|_| device.into());
    let disk = path.file_name()?.to_str()?;
    let part = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    (1_u32..).map(|n| format!("{disk}{part}{n}")).find(|name| !taken(name))
}

/// The format of a new volume in this pool.
pub(super) fn format(pool: &Pool, wanted: Option<DiskFormat>) -> Result<DiskFormat> {
    match wanted {
        Some(DiskFormat::Qcow2) if !holds_files(pool) => Err(Error::new(
            Kind::NotSupported,
            format!("a {} pool has no qcow2 volumes", pool.r#type),
        )
        .with_field("format", "must be raw in this pool")),
        Some(format) => Ok(format),
        None if holds_files(pool) => Ok(DiskFormat::Qcow2),
        None => Ok(DiskFormat::Raw),
    }
}

/// 412 unless `If-Match` is absent or names the present version.
pub(super) fn check_if_match(ctx: &Context, volume: &VolumeRecord) -> Result<()> {
    let what = format_args!("the volume {}/{}", volume.pool, volume.name);
    ctx.expect_version(what, &volume.etag())
}

/// 409 if a VM uses the volume, or another volume is based on it: with the names of both.
pub(crate) fn refuse_used(volume: &VolumeRecord) -> Result<()> {
    refuse_used_but_by(volume, |_| false)
}

/// The same, but for these VMs.
pub(crate) fn refuse_used_but_by(
    volume: &VolumeRecord,
    but_by: impl Fn(&str) -> bool,
) -> Result<()> {
    let others = |role: VolumeUse| -> Vec<String> {
        let users =
            volume.used_as.iter().filter(|(user, used_as)| **used_as == role && !but_by(user));
        users.map(|(user, _)| user.clone()).collect()
    };
    let (disks, below) = (others(VolumeUse::Disk), others(VolumeUse::Backing));
    let told = others(VolumeUse::Ignition);
    let based: Vec<String> = volume.backing_of.iter().map(ToString::to_string).collect();
    let mut why = Vec::new();
    if let Some(template) = &volume.template {
        why.push(format!("is a base of the template {template:?}"));
    }
    if !disks.is_empty() {
        why.push(format!("is a disk of {}", disks.join(", ")));
    }
    if !based.is_empty() {
        why.push(format!("is the base of {}", based.join(", ")));
    }
    if !below.is_empty() {
        why.push(format!("is below a disk of {}", below.join(", ")));
    }
    if !told.is_empty() {
        why.push(format!("is the Ignition config of {}", told.join(", ")));
    }
    if why.is_empty() {
        return Ok(());
    }
    let error = Error::new(
        Kind::VolumeInUse,
        format!("the volume {}/{} {}", volume.pool, volume.name, why.join(", and ")),
    )
    .with_detail("vms", json!([disks, below, told].concat()));
    let error = match &volume.template {
        Some(template) => error.with_detail("template", &**template),
        None => error,
    };
    Err(if based.is_empty() { error } else { error.with_detail("volumes", json!(based)) })
}

/// The disks by which a VM may write to a volume.
pub(super) fn written_by(
    picture: &Picture,
    record: &VmRecord,
    volume: &VolumeRecord,
) -> Result<Vec<Disk>> {
    let mut disks = record.whole()?.disks;
    disks.retain(|disk| {
        let writes = !disk.read_only && disk.device != DiskDevice::Cdrom;
        writes && is_on(picture, disk, volume)
    });
    Ok(disks)
}

/// Whether the disk is this volume, by its names or by its path.
fn is_on(picture: &Picture, disk: &Disk, volume: &VolumeRecord) -> bool {
    let same = disk.volume.as_ref().is_some_and(|one| {
        (one.pool == volume.pool && one.volume == volume.name)
            || picture
                .volume(&one.pool, &one.volume)
                .is_ok_and(|one| !one.path.is_empty() && one.path == volume.path)
    });
    same || disk.source.as_deref() == Some(volume.path.as_str())
}

/// The VMs that write to this volume while they run. One that has it only in its next boot's
/// definition counts.
pub(crate) fn writers(picture: &Picture, volume: &VolumeRecord) -> Result<Vec<Arc<VmRecord>>> {
    let disks = volume.used_as.iter().filter(|(_, used_as)| **used_as == VolumeUse::Disk);
    let mut writers = Vec::new();
    for (user, _) in disks {
        let at = picture.vms.binary_search_by(|record| record.vm.name.cmp(user));
        let Ok(record) = at.map(|at| &picture.vms[at]) else { continue };
        let disks = record.whole()?.disks;
        if !written_by(picture, record, volume)?.is_empty()
            || !disks.iter().any(|disk| is_on(picture, disk, volume))
        {
            writers.push(record.clone());
        }
    }
    Ok(writers)
}

/// Whether the VM has a QEMU, which has its disks open.
pub(crate) fn runs(record: &VmRecord) -> bool {
    record.vm.state != VmState::Shutoff
}

/// 422 if what is below the volume is not a volume of a known pool: a file of the host would be
/// read along.
pub(super) fn refuse_foreign_base(volume: &VolumeRecord) -> Result<()> {
    match volume.backing_chain.iter().find(|file| file.volume.is_none()) {
        None => Ok(()),
        Some(file) => Err(Error::new(
            Kind::Impossible,
            format!(
                "the volume {}/{} reads from {:?}, which is no volume of a known pool",
                volume.pool, volume.name, file.path
            ),
        )
        .with_hint("define the pool that holds its base")
        .with_detail("path", file.path.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capacity_is_named_once_and_within_bounds() {
        assert_eq!(capacity(Some(2), None).unwrap(), (2 << 30, "size"));
        assert_eq!(capacity(None, Some(1)).unwrap(), (1, "capacity_bytes"));
        for (size, bytes, kind) in [
            (None, None, Kind::Impossible),
            (Some(1), Some(1), Kind::Impossible),
            (Some(0), None, Kind::InvalidRequest),
            (Some(u64::MAX), None, Kind::InvalidRequest),
            (None, Some(0), Kind::InvalidRequest),
            (None, Some(1 << 63), Kind::InvalidRequest),
            (None, Some(MAX_CAPACITY + 1), Kind::InvalidRequest),
        ] {
            let error = capacity(size, bytes).unwrap_err();
            assert_eq!(error.kind(), kind, "{size:?} {bytes:?}");
            assert!(error.details().contains_key("fields"));
        }
    }

    #[test]
    fn a_partition_is_called_as_libvirt_will_call_it() {
        for (device, there, next) in [
            ("/dev/no-such-a", &[][..], "no-such-a1"),
            ("/dev/no-such-a", &["no-such-a1", "no-such-a3"], "no-such-a2"),
            ("/dev/no-such0n1", &[], "no-such0n1p1"),
        ] {
            let found = next_partition(device, |name| there.contains(&name));
            assert_eq!(found.as_deref(), Some(next));
        }
    }
}
