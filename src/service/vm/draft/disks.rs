//! The disks of a draft: their buses and targets, the volumes they use and those to be made.

use std::collections::HashSet;

use super::check::{clash, is_word, not_supported, text};
use super::{NewVolume, Purpose};
use crate::error::{Error, Kind, Result};
use crate::model::host::DomainCapabilities;
use crate::model::vm_request::{DiskBus, DiskCache, DiskFormat, DiskIo};
use crate::model::{DiskAction, DiskDevice, DiskRequest, PoolState, ResourceName, VolumeRef};
use crate::service::inventory::{Picture, VolumeRecord};
use crate::service::volume::{base_format, may_be_base, refuse_used_but_by};
use crate::xml::domain::author::{DiskSource, DiskSpec};
use crate::xml::volume::{VolumeSpec, author_volume};

const GIB: u64 = 1 << 30;

/// Where the content of a new volume comes from.
enum Origin {
    Copy(VolumeRef),
    /// The volume it stands on, with its path and format.
    Base(VolumeRef, String, String),
}

/// The disks of one draft, one added after the other.
pub(super) struct Disks<'a> {
    picture: &'a Picture,
    vm: &'a str,
    preferred: Option<&'a DomainCapabilities>,
    default_pool: &'a str,
    /// The bus of disks that name none.
    default_bus: DiskBus,
    isos: &'a (dyn Fn(&str) -> Result<VolumeRef> + Sync),
    specs: Vec<DiskSpec>,
    volumes: Vec<NewVolume>,
    /// Targets that the request names for some disk.
    asked: Vec<String>,
    /// Volumes that this VM uses already, and targets.
    taken: HashSet<(String, String)>,
}

impl<'a> Disks<'a> {
    pub(super) fn new(
        picture: &'a Picture,
        vm: &'a str,
        preferred: Option<&'a DomainCapabilities>,
        default_pool: &'a str,
        default_bus: DiskBus,
        isos: &'a (dyn Fn(&str) -> Result<VolumeRef> + Sync),
    ) -> Self {
        Disks {
            picture,
            vm,
            preferred,
            default_pool,
            default_bus,
            isos,
            specs: Vec::new(),
            volumes: Vec::new(),
            asked: Vec::new(),
            taken: HashSet::new(),
        }
    }

    /// Keeps these targets for the disks that name them.
    pub(super) fn reserve(&mut self, requests: &[DiskRequest]) {
        self.asked = requests.iter().filter_map(|request| request.target.clone()).collect();
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
        let target = self.target(&field("target"), bus, request.target.as_deref())?;
        check_options(&field, request, bus)?;
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
            shareable: request.shareable,
            cache: request.cache,
            io: request.io,
            discard: request.discard,
            iothread: request.iothread,
        });
        Ok(())
    }

    fn bus(&self, field: &str, request: &DiskRequest) -> Result<DiskBus> {
        let bus = request.bus.unwrap_or(match request.device {
            DiskDevice::Disk | DiskDevice::Lun => self.default_bus,
            DiskDevice::Cdrom => DiskBus::Sata,
            DiskDevice::Floppy => DiskBus::Fdc,
        });
        let offered = self.preferred.map(|preferred| preferred.disk_buses.as_slice());
        check_bus(field, request.device, bus, offered)?;
        Ok(bus)
    }

    fn target(&mut self, field: &str, bus: DiskBus, asked: Option<&str>) -> Result<String> {
        let prefix = prefix(bus);
        let key = |target: &str| ("target".to_owned(), target.to_owned());
        let target = match asked {
            Some(asked) => {
                let rest = asked.strip_prefix(prefix).unwrap_or_default();
                if !(1..=2).contains(&rest.len())
                    || !rest.chars().all(|letter| letter.is_ascii_lowercase())
                {
                    return Err(clash(
                        field,
                        format!("a target on the bus {} is {prefix}a, {prefix}b, …", bus.as_str()),
                    ));
                }
                if self.taken.contains(&key(asked)) {
                    return Err(clash(field, format!("{asked} is the target of two disks")));
                }
                asked.to_owned()
            }
            None => free_target(bus, |target| {
                self.taken.contains(&key(target)) || self.asked.iter().any(|a| a == target)
            }),
        };
        self.taken.insert(key(&target));
        Ok(target)
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
        from: Option<Origin>,
    ) -> Result<(DiskSource, Option<String>)> {
        let pool_name = request.pool.as_ref().map_or(self.default_pool, ResourceName::as_str);
        let pool = self.active_pool(pool_name)?;
        let files =
            matches!(pool.pool.r#type.as_str(), "dir" | "fs" | "netfs" | "gluster" | "vstorage");
        let linked = matches!(from, Some(Origin::Base(..)));
        let format = match request.format {
            Some(DiskFormat::Raw) if linked => {
                return Err(clash(field("format"), "only a qcow2 volume can have a base"));
            }
            None if linked && !files => {
                return Err(not_supported(
                    &field("linked"),
                    format!("a {} pool has no qcow2 volumes", pool.pool.r#type),
                ));
            }
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
            backing: match &from {
                Some(Origin::Base(_, path, base)) => Some((path.clone(), base.clone())),
                Some(Origin::Copy(_)) | None => None,
            },
        })?;
        let folder = pool.pool.target_path.clone().unwrap_or_default();
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        self.volumes.push(NewVolume {
            purpose: Purpose::Disk(self.specs.len()),
            pool: pool_name.to_owned(),
            name: name.clone(),
            xml,
            clone_of: match &from {
                Some(Origin::Copy(source)) => Some(source.clone()),
                Some(Origin::Base(..)) | None => None,
            },
            linked_to: match from {
                Some(Origin::Base(base, ..)) => Some(base),
                Some(Origin::Copy(_)) | None => None,
            },
            content: None,
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
        if request.source.is_some() || request.path.is_some() || request.iso.is_some() {
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
        if request.size.is_some()
            || request.format.is_some()
            || request.source.is_some()
            || request.linked
        {
            return Err(clash(
                field("action"),
                "an attached volume keeps its size and format; say clone to have another",
            ));
        }
        let iso = self.image(field, request)?;
        let volume = match (&request.path, &request.volume) {
            (None, None) if let Some(image) = &iso => {
                self.active_pool(&image.pool)?;
                self.picture.volume(&image.pool, &image.volume)?
            }
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
        let shared = request.read_only || request.shareable || request.device == DiskDevice::Cdrom;
        if !self.taken.insert((volume.pool.clone(), volume.name.clone())) {
            return Err(Error::new(
                Kind::Impossible,
                format!("the volume {}/{} twice", volume.pool, volume.name),
            )
            .with_field(field("volume"), "is a disk of this VM already"));
        }
        if !shared {
            // A base must not change, either.
            refuse_used_but_by(&volume, |_| false)?;
        }
        let format = match volume.format.as_deref() {
            None | Some("iso" | "unknown" | "none") => "raw",
            Some(format) => format,
        };
        if request.shareable && format != "raw" {
            return Err(clash(field("shareable"), "only raw volumes can have several writers"));
        }
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
        let iso = self.image(field, request)?;
        let source = match (iso.as_ref().or(request.source.as_ref()), &request.path) {
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
        let origin = if request.linked {
            may_be_base(self.picture, &source).map_err(|error| {
                error.with_field(field("linked"), "the source cannot be a base")
            })?;
            Origin::Base(reference, source.path.clone(), base_format(&source, None))
        } else {
            Origin::Copy(reference)
        };
        self.new_volume(field, request, capacity, Some(origin))
    }

    /// The volume of the image of the library that the request names.
    fn image(
        &self,
        field: &dyn Fn(&str) -> String,
        request: &DiskRequest,
    ) -> Result<Option<VolumeRef>> {
        let Some(iso) = &request.iso else { return Ok(None) };
        let attached = request.action == DiskAction::Attach && request.volume.is_some();
        if request.source.is_some() || request.path.is_some() || attached {
            return Err(clash(field("iso"), "names the source a second time"));
        }
        (self.isos)(iso).map(Some)
    }

    fn by_path(&self, path: &str) -> Result<std::sync::Arc<VolumeRecord>> {
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

/// What of a disk's options contradicts its kind or another of them.
fn check_options(
    field: &dyn Fn(&str) -> String,
    request: &DiskRequest,
    bus: DiskBus,
) -> Result<()> {
    if request.linked && request.action != DiskAction::Clone {
        return Err(clash(field("linked"), "is for the action clone"));
    }
    if request.shareable && request.action != DiskAction::Attach {
        return Err(clash(field("shareable"), "is for the action attach"));
    }
    if request.shareable && request.device == DiskDevice::Floppy {
        return Err(clash(field("shareable"), "is for disks"));
    }
    check_tuning(field, (request.cache, request.io), request.iothread, bus)
}

/// What of a disk's tuning contradicts another part of it.
pub(in crate::service::vm) fn check_tuning(
    field: &dyn Fn(&str) -> String,
    (cache, io): (Option<DiskCache>, Option<DiskIo>),
    iothread: Option<u32>,
    bus: DiskBus,
) -> Result<()> {
    let direct = matches!(cache, Some(DiskCache::None | DiskCache::Directsync));
    if io == Some(DiskIo::Native) && !direct {
        return Err(clash(field("io"), "native needs the cache none or directsync"));
    }
    if let Some(number) = iothread {
        if !(1..=64).contains(&number) {
            return Err(Error::field(field("iothread"), "must be between 1 and 64"));
        }
        if bus != DiskBus::Virtio {
            return Err(clash(field("iothread"), "is for disks on the bus virtio"));
        }
    }
    Ok(())
}

/// Whether such a device can sit on this bus, and the host has it. `offered` are the buses of the
/// machine, where they are known.
pub(in crate::service::vm) fn check_bus(
    field: &str,
    device: DiskDevice,
    bus: DiskBus,
    offered: Option<&[String]>,
) -> Result<()> {
    let fits = match device {
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
            format!("a {device:?} cannot sit on the bus {}", bus.as_str()),
        )
        .with_field(field, "does not fit the device"));
    }
    if let Some(offered) = offered
        && !offered.is_empty()
        && !offered.iter().any(|known| known == bus.as_str())
    {
        return Err(not_supported(field, format!("this host has no bus {}", bus.as_str()))
            .with_detail("buses", offered.to_vec()));
    }
    Ok(())
}

/// How targets on this bus begin.
const fn prefix(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::Virtio => "vd",
        DiskBus::Sata | DiskBus::Scsi | DiskBus::Usb => "sd",
        DiskBus::Ide => "hd",
        DiskBus::Fdc => "fd",
    }
}

/// The first target on this bus that is not taken.
pub(in crate::service::vm) fn free_target(bus: DiskBus, is_taken: impl Fn(&str) -> bool) -> String {
    let prefix = prefix(bus);
    (0u32..)
        .map(|place| format!("{prefix}{}", letters(place)))
        .find(|target| !is_taken(target))
        .unwrap_or_default()
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
