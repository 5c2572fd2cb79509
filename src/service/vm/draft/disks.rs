//! The disks of a draft: their buses and targets, the volumes they use and those to be made.

use std::collections::HashSet;

use super::NewVolume;
use super::check::{clash, is_word, not_supported, text};
use crate::error::{Error, Kind, Result};
use crate::model::host::DomainCapabilities;
use crate::model::vm_request::{DiskBus, DiskFormat};
use crate::model::{
    DiskAction, DiskDevice, DiskRequest, PoolState, ResourceName, Volume, VolumeRef,
};
use crate::service::inventory::Picture;
use crate::service::storage::in_use;
use crate::xml::domain::author::{DiskSource, DiskSpec};
use crate::xml::storage::{VolumeSpec, author_volume};

const GIB: u64 = 1 << 30;

/// The disks of one draft, one added after the other.
pub(super) struct Disks<'a> {
    picture: &'a Picture,
    vm: &'a str,
    preferred: Option<&'a DomainCapabilities>,
    default_pool: &'a str,
    specs: Vec<DiskSpec>,
    volumes: Vec<NewVolume>,
    /// Volumes that this VM uses already, and targets.
    taken: HashSet<(String, String)>,
}

impl<'a> Disks<'a> {
    pub(super) fn new(
        picture: &'a Picture,
        vm: &'a str,
        preferred: Option<&'a DomainCapabilities>,
        default_pool: &'a str,
    ) -> Self {
        Disks {
            picture,
            vm,
            preferred,
            default_pool,
            specs: Vec::new(),
            volumes: Vec::new(),
            taken: HashSet::new(),
        }
    }

    /// The disks, and the volumes to be made for them.
    pub(super) fn done(self) -> (Vec<DiskSpec>, Vec<NewVolume>) {
        (self.specs, self.volumes)
    }

    /// Checks and resolves one more disk.
    pub(super) fn add(&mut self, index: usize, request: &DiskRequest) -> Result<()> {
        let field = |name: &str| format!("storage.disks[{index}].{name}");
        if request.size.is_some_and(|size| !(1..=65_536).contains(&size)) {
            return Err(Error::field(field("size"), "must be between 1 and 65536 GiB"));
        }
        if request.boot_order.is_some_and(|order| !(1..=32).contains(&order)) {
            return Err(Error::field(field("boot_order"), "must be between 1 and 32"));
        }
        let mut wrong = Vec::new();
        text(&mut wrong, "serial", request.serial.as_deref(), 36, |c| is_word(c) || c == '+');
        if let Some((_, problem)) = wrong.pop() {
            return Err(Error::field(field("serial"), problem));
        }
        let bus = self.bus(&field("bus"), request)?;
        let target = self.target(bus);
        let (source, format) = match request.action {
            DiskAction::Create => self.create(&field, request)?,
            DiskAction::Attach => self.attach(&field, request)?,
            DiskAction::Clone => self.clone_volume(&field, request)?,
        };
        self.specs.push(DiskSpec {
            device: request.device,
            bus,
            target,
            format,
            source,
            read_only: request.read_only || request.device == DiskDevice::Cdrom,
            serial: request.serial.clone().filter(|serial| !serial.is_empty()),
            boot_order: request.boot_order,
        });
        Ok(())
    }

    fn bus(&self, field: &str, request: &DiskRequest) -> Result<DiskBus> {
        let bus = request.bus.unwrap_or(match request.device {
            DiskDevice::Disk | DiskDevice::Lun => DiskBus::Virtio,
            DiskDevice::Cdrom => DiskBus::Sata,
            DiskDevice::Floppy => DiskBus::Fdc,
        });
        let fits = match request.device {
            DiskDevice::Floppy => bus == DiskBus::Fdc,
            DiskDevice::Cdrom => {
                matches!(bus, DiskBus::Sata | DiskBus::Ide | DiskBus::Scsi | DiskBus::Usb)
            }
            DiskDevice::Lun => matches!(bus, DiskBus::Virtio | DiskBus::Scsi),
            DiskDevice::Disk => bus != DiskBus::Fdc,
        };
        if !fits {
            return Err(Error::new(
                Kind::Impossible,
                format!("a {:?} cannot sit on the bus {}", request.device, bus.as_str()),
            )
            .with_field(field, "does not fit the device"));
        }
        let offered = self.preferred.map(|preferred| preferred.disk_buses.as_slice());
        if let Some(offered) = offered
            && !offered.is_empty()
            && !offered.iter().any(|known| known == bus.as_str())
        {
            return Err(not_supported(field, format!("this host has no bus {}", bus.as_str()))
                .with_detail("buses", offered.to_vec()));
        }
        Ok(bus)
    }

    fn target(&mut self, bus: DiskBus) -> String {
        let prefix = match bus {
            DiskBus::Virtio => "vd",
            DiskBus::Sata | DiskBus::Scsi | DiskBus::Usb => "sd",
            DiskBus::Ide => "hd",
            DiskBus::Fdc => "fd",
        };
        let free = (0u32..)
            .map(|place| format!("{prefix}{}", letters(place)))
            .find(|target| !self.taken.contains(&("target".to_owned(), target.clone())))
            .unwrap_or_default();
        self.taken.insert(("target".to_owned(), free.clone()));
        free
    }

    fn active_pool(
        &self,
        name: &str,
    ) -> Result<std::sync::Arc<crate::service::inventory::PoolRecord>> {
        let pool = self.picture.pool(name)?;
        if pool.pool.state == PoolState::Inactive {
            return Err(Error::new(Kind::PoolInactive, format!("the pool {name:?} is not active")));
        }
        Ok(pool)
    }

    /// A new volume: its format, its name and its place among the disks.
    fn new_volume(
        &mut self,
        field: &dyn Fn(&str) -> String,
        request: &DiskRequest,
        capacity_bytes: u64,
        clone_of: Option<VolumeRef>,
    ) -> Result<(DiskSource, Option<String>)> {
        let pool_name = request.pool.as_ref().map_or(self.default_pool, ResourceName::as_str);
        let pool = self.active_pool(pool_name)?;
        let files =
            matches!(pool.pool.r#type.as_str(), "dir" | "fs" | "netfs" | "gluster" | "vstorage");
        let format = match request.format {
            Some(DiskFormat::Qcow2) if !files => {
                return Err(not_supported(
                    &field("format"),
                    format!("a {} pool has no qcow2 volumes", pool.pool.r#type),
                ));
            }
            Some(format) => format,
            None if files => DiskFormat::Qcow2,
            None => DiskFormat::Raw,
        };
        let name = match &request.volume {
            Some(name) => String::from(ResourceName::try_from(name.clone()).map_err(|error| {
                error.with_field(field("volume"), "is not a name that a new volume may have")
            })?),
            None => {
                let place = self.specs.len();
                let suffix = if place == 0 { String::new() } else { format!("-{place}") };
                let extension = if files { format!(".{}", format.as_str()) } else { String::new() };
                format!("{}{suffix}{extension}", self.vm)
            }
        };
        let exists = pool.volumes.iter().any(|volume| volume.name == name);
        if exists || !self.taken.insert((pool_name.to_owned(), name.clone())) {
            return Err(Error::new(
                Kind::VolumeAlreadyExists,
                format!("the pool {pool_name:?} has a volume {name:?} already"),
            )
            .with_field(field("volume"), "exists already"));
        }
        let xml = author_volume(&VolumeSpec {
            name: name.clone(),
            capacity_bytes,
            format,
            sparse: files,
            backing: None,
        })?;
        let folder = pool.pool.target_path.clone().unwrap_or_default();
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        self.volumes.push(NewVolume {
            disk: self.specs.len(),
            pool: pool_name.to_owned(),
            name: name.clone(),
            xml,
            clone_of,
        });
        let r#type = if files { "file" } else { "block" }.to_owned();
        let source = DiskSource::Volume { pool: pool_name.to_owned(), volume: name, path, r#type };
        Ok((source, Some(format.as_str().to_owned())))
    }

    fn create(
        &mut self,
        field: &dyn Fn(&str) -> String,
        request: &DiskRequest,
    ) -> Result<(DiskSource, Option<String>)> {
        if request.source.is_some() || request.path.is_some() {
            return Err(clash(field("source"), "a new disk has none; say clone or attach"));
        }
        match request.size {
            Some(size) => self.new_volume(field, request, size * GIB, None),
            // An optical or floppy drive without a medium.
            None if matches!(request.device, DiskDevice::Cdrom | DiskDevice::Floppy) => {
                Ok((DiskSource::Empty, None))
            }
            None => Err(clash(field("size"), "is required to create a disk")),
        }
    }

    fn attach(
        &mut self,
        field: &dyn Fn(&str) -> String,
        request: &DiskRequest,
    ) -> Result<(DiskSource, Option<String>)> {
        if request.size.is_some() || request.format.is_some() || request.source.is_some() {
            return Err(clash(
                field("action"),
                "an attached volume keeps its size and format; say clone to have another",
            ));
        }
        let volume = match (&request.path, &request.volume) {
            (Some(_), Some(_)) => {
                return Err(clash(field("path"), "contradicts volume: say one of them"));
            }
            (Some(path), None) => self.by_path(path)?,
            (None, Some(name)) => {
                let pool = request.pool.as_ref().map_or(self.default_pool, ResourceName::as_str);
                self.active_pool(pool)?;
                self.picture.volume(pool, name)?
            }
            (None, None) => return Err(clash(field("volume"), "is required to attach one")),
        };
        let reference = VolumeRef { pool: volume.pool.clone(), volume: volume.name.clone() };
        let shared = request.read_only || request.device == DiskDevice::Cdrom;
        if !self.taken.insert((volume.pool.clone(), volume.name.clone())) {
            return Err(Error::new(
                Kind::Impossible,
                format!("the volume {}/{} twice", volume.pool, volume.name),
            )
            .with_field(field("volume"), "is a disk of this VM already"));
        }
        let users = self.picture.users_of(&reference, &volume.path);
        if !shared && !users.is_empty() {
            return Err(in_use(&volume.pool, &volume.name, &users));
        }
        let format = match volume.format.as_deref() {
            None | Some("iso" | "unknown" | "none") => "raw",
            Some(format) => format,
        };
        let source = DiskSource::Volume {
            pool: volume.pool.clone(),
            volume: volume.name.clone(),
            path: volume.path.clone(),
            r#type: volume.r#type.clone(),
        };
        Ok((source, Some(format.to_owned())))
    }

    fn clone_volume(
        &mut self,
        field: &dyn Fn(&str) -> String,
        request: &DiskRequest,
    ) -> Result<(DiskSource, Option<String>)> {
        let source = match (&request.source, &request.path) {
            (Some(source), None) => {
                self.active_pool(&source.pool)?;
                self.picture.volume(&source.pool, &source.volume)?
            }
            (None, Some(path)) => self.by_path(path)?,
            (Some(_), Some(_)) => {
                return Err(clash(field("path"), "contradicts source: say one of them"));
            }
            (None, None) => {
                return Err(clash(field("source"), "is required to clone a volume"));
            }
        };
        let capacity = match request.size {
            Some(size) if size * GIB < source.capacity_bytes => {
                return Err(Error::new(
                    Kind::Impossible,
                    format!(
                        "{size} GiB is less than the {} bytes of {}/{}",
                        source.capacity_bytes, source.pool, source.name
                    ),
                )
                .with_field(field("size"), "must be at least the source's"));
            }
            Some(size) => size * GIB,
            None => source.capacity_bytes,
        };
        let reference = VolumeRef { pool: source.pool.clone(), volume: source.name.clone() };
        self.new_volume(field, request, capacity, Some(reference))
    }

    fn by_path(&self, path: &str) -> Result<std::sync::Arc<Volume>> {
        match self.picture.paths.get(path) {
            Some(entry) => self.picture.volume(&entry.volume.pool, &entry.volume.volume),
            None => {
                let shown: String = path.chars().take(140).collect();
                Err(Error::new(
                    Kind::VolumeNotFound,
                    format!("the path {shown:?} is not a volume of a known pool"),
                ))
            }
        }
    }
}

/// a, b, …, z, aa, ab, …
fn letters(mut place: u32) -> String {
    let mut text = Vec::new();
    loop {
        text.push(b'a' + u8::try_from(place % 26).unwrap_or(0));
        if place < 26 {
            break;
        }
        place = place / 26 - 1;
    }
    text.reverse();
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_go_on_after_z() {
        assert_eq!(letters(0), "a");
        assert_eq!(letters(25), "z");
        assert_eq!(letters(26), "aa");
        assert_eq!(letters(27), "ab");
    }
}
