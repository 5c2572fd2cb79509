//! What each type of pool needs, takes and refuses, before anything is asked of libvirt.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::libvirt::pool::BuildMode;
use crate::model::host::Capabilities;
use crate::model::pool::{
    AdapterType, AuthType, CreatePool, PoolAdapter, PoolAuth, PoolSource, PoolTarget, PoolType,
};
use crate::service::inventory::Picture;
use crate::xml::pool::PoolSpec;

/// Whether a member has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
    Forbidden,
}

/// Where a pool's target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// A folder of its own, which the client names.
    Folder,
    /// A place among the devices: this one if the client names none.
    Devices(&'static str),
    /// A place that libvirt makes of the source's name.
    BySource,
    /// None on this host.
    Nowhere,
}

/// What can be made for a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    Folder,
    /// On the source's devices; the second says whether it can be told to overwrite.
    OnDevices(bool),
    Nothing,
}

/// What is known of one type.
struct Rules {
    /// The least and the most.
    hosts: (usize, usize),
    devices: (usize, usize),
    /// Whether devices are block devices, as opposed to iSCSI targets.
    block_devices: bool,
    dir: Need,
    name: Need,
    format: Need,
    adapter: Need,
    initiator: Need,
    auth: Option<AuthType>,
    protocol_version: Need,
    place: Place,
    making: Making,
}

const NONE: Rules = Rules {
    hosts: (0, 0),
    devices: (0, 0),
    block_devices: true,
    dir: Need::Forbidden,
    name: Need::Forbidden,
    format: Need::Forbidden,
    adapter: Need::Forbidden,
    initiator: Need::Forbidden,
    auth: None,
    protocol_version: Need::Forbidden,
    place: Place::Nowhere,
    making: Making::Nothing,
};

const fn rules(r#type: PoolType) -> Rules {
    match r#type {
        PoolType::Dir => Rules { place: Place::Folder, making: Making::Folder, ..NONE },
        PoolType::Fs => Rules {
            devices: (1, 1),
            format: Need::Optional,
            place: Place::Folder,
            making: Making::OnDevices(true),
            ..NONE
        },
        PoolType::Netfs => Rules {
            hosts: (1, 1),
            dir: Need::Required,
            format: Need::Optional,
            protocol_version: Need::Optional,
            place: Place::Folder,
            making: Making::Folder,
            ..NONE
        },
        PoolType::Logical => Rules {
            devices: (0, 64),
            name: Need::Optional,
            format: Need::Optional,
            place: Place::BySource,
            making: Making::OnDevices(true),
            ..NONE
        },
        PoolType::Disk => Rules {
            devices: (1, 1),
            format: Need::Optional,
            place: Place::Devices("/dev"),
            making: Making::OnDevices(true),
            ..NONE
        },
        PoolType::Iscsi => Rules {
            hosts: (1, 1),
            devices: (1, 1),
            block_devices: false,
            initiator: Need::Optional,
            auth: Some(AuthType::Chap),
            place: Place::Devices("/dev/disk/by-path"),
            ..NONE
        },
        PoolType::IscsiDirect => Rules {
            hosts: (1, 1),
            devices: (1, 1),
            block_devices: false,
            initiator: Need::Required,
            auth: Some(AuthType::Chap),
            ..NONE
        },
        PoolType::Scsi => {
            Rules { adapter: Need::Required, place: Place::Devices("/dev/disk/by-path"), ..NONE }
        }
        PoolType::Mpath => Rules { place: Place::Devices("/dev/mapper"), ..NONE },
        PoolType::Rbd => {
            Rules { hosts: (1, 16), name: Need::Required, auth: Some(AuthType::Ceph), ..NONE }
        }
        PoolType::Sheepdog => Rules { hosts: (1, 1), name: Need::Required, ..NONE },
        PoolType::Gluster => {
            Rules { hosts: (1, 1), name: Need::Required, dir: Need::Optional, ..NONE }
        }
        PoolType::Zfs => Rules {
            devices: (0, 64),
            name: Need::Required,
            place: Place::BySource,
            making: Making::OnDevices(false),
            ..NONE
        },
        PoolType::Vstorage => {
            Rules { name: Need::Required, place: Place::Folder, making: Making::Folder, ..NONE }
        }
    }
}

/// Whether pools of this type are folders, which libvirt makes and removes.
pub(super) fn has_folder(r#type: &str) -> bool {
    PoolType::parse(r#type).is_some_and(|known| rules(known).place == Place::Folder)
}

/// The fields that are wrong.
#[derive(Default)]
struct Wrong(Vec<(String, String)>);

impl Wrong {
    fn add(&mut self, field: &str, problem: impl Into<String>) {
        self.0.push((field.to_owned(), problem.into()));
    }

    fn end(self) -> Result<()> {
        let mut wrong = self.0.into_iter();
        let Some((field, problem)) = wrong.next() else { return Ok(()) };
        let first =
            Error::new(Kind::Impossible, format!("{field}: {problem}")).with_field(field, problem);
        Err(wrong.fold(first, |error, (field, problem)| error.with_field(field, problem)))
    }
}

/// The specification that a request amounts to.
///
/// # Errors
/// 422 with the fields that this type lacks or does not take, or that no pool could have.
pub(super) fn spec_of(request: &CreatePool, uuid: uuid::Uuid) -> Result<PoolSpec> {
    let rules = rules(request.r#type);
    let mut spec = PoolSpec {
        uuid,
        name: request.name.as_str().to_owned(),
        r#type: request.r#type,
        source: request.source.clone().unwrap_or_default(),
        target: request.target.clone().unwrap_or_default(),
        features: request.features.clone().unwrap_or_default(),
    };
    if spec.r#type == PoolType::Logical && spec.source.name.is_none() {
        spec.source.name = Some(spec.name.clone());
    }
    if let (None, Place::Devices(place)) = (&spec.target.path, rules.place) {
        spec.target.path = Some(place.to_owned());
    }
    check(spec.r#type, &spec.source, &spec.target)?;
    if spec.features.cow.is_some() && rules.place != Place::Folder {
        let problem = format!("a pool of type {} has no folder", spec.r#type.as_str());
        let mut wrong = Wrong::default();
        wrong.add("features.cow", problem);
        wrong.end()?;
    }
    Ok(spec)
}

/// Whether a pool of this type can have this source and this target.
///
/// # Errors
/// 422 with the fields.
pub(super) fn check(r#type: PoolType, source: &PoolSource, target: &PoolTarget) -> Result<()> {
    let rules = rules(r#type);
    let word = r#type.as_str();
    let mut wrong = Wrong::default();
    count(&mut wrong, word, "source.hosts", source.hosts.len(), rules.hosts);
    count(&mut wrong, word, "source.devices", source.devices.len(), rules.devices);
    for (field, there, need) in [
        ("source.dir", source.dir.is_some(), rules.dir),
        ("source.name", source.name.is_some(), rules.name),
        ("source.format", source.format.is_some(), rules.format),
        ("source.adapter", source.adapter.is_some(), rules.adapter),
        ("source.initiator", source.initiator.is_some(), rules.initiator),
        ("source.protocol_version", source.protocol_version.is_some(), rules.protocol_version),
    ] {
        match (need, there) {
            (Need::Required, false) => wrong.add(field, format!("is needed for type {word}")),
            (Need::Forbidden, true) => wrong.add(field, format!("is not known to type {word}")),
            _ => {}
        }
    }
    devices(&mut wrong, &rules, source);
    if let Some(dir) = &source.dir {
        // CIFS and GlusterFS name what they export, NFS gives its path.
        let named = matches!(source.format.as_deref(), Some("cifs" | "glusterfs"));
        if let Some(problem) = if named { no_steps_up(dir) } else { unlike_a_path(dir) } {
            wrong.add("source.dir", problem);
        }
    }
    if let Some(problem) = source.name.as_deref().and_then(|name| bad_source_name(r#type, name)) {
        wrong.add("source.name", problem);
    }
    if source.protocol_version.is_some()
        && !matches!(source.format.as_deref(), None | Some("auto" | "nfs"))
    {
        wrong.add("source.protocol_version", "is known to NFS alone");
    }
    if let Some(adapter) = &source.adapter {
        check_adapter(&mut wrong, adapter);
    }
    if let Some(auth) = &source.auth {
        check_auth(&mut wrong, word, auth, rules.auth);
    }
    check_target(&mut wrong, word, &rules, target);
    wrong.end()
}

fn count(wrong: &mut Wrong, word: &str, field: &str, there: usize, (least, most): (usize, usize)) {
    if most == 0 && there > 0 {
        wrong.add(field, format!("is not known to type {word}"));
    } else if there < least {
        wrong.add(field, format!("is needed for type {word}"));
    } else if there > most {
        let plural = if most == 1 { "entry" } else { "entries" };
        wrong.add(field, format!("has more than {most} {plural}, which type {word} cannot take"));
    }
}

fn devices(wrong: &mut Wrong, rules: &Rules, source: &PoolSource) {
    for (index, device) in source.devices.iter().enumerate().take(rules.devices.1) {
        let field = format!("source.devices[{index}].path");
        if !rules.block_devices {
            if !device.path.starts_with("iqn.") {
                wrong.add(&field, "is not the name of an iSCSI target, which begins with \"iqn.\"");
            }
        } else if let Some(problem) = unlike_a_path(&device.path) {
            wrong.add(&field, problem);
        } else if !Path::new(&device.path).starts_with("/dev") {
            // libvirt would format any file that it is given, and mount it without ever unmounting.
            wrong.add(&field, "is not below /dev, where block devices are");
        } else if source.devices[..index].contains(device) {
            wrong.add(&field, "stands there twice");
        }
    }
}

fn bad_source_name(r#type: PoolType, name: &str) -> Option<String> {
    if r#type == PoolType::Logical
        && (name.contains(['/', ':']) || name.starts_with('-') || matches!(name, "." | ".."))
    {
        return Some("is not a name that a volume group can have".to_owned());
    }
    if name.starts_with(['-', '/']) || name.ends_with('/') {
        return Some("begins with '-' or '/', or ends with '/'".to_owned());
    }
    no_steps_up(name)
}

fn check_adapter(wrong: &mut Wrong, adapter: &PoolAdapter) {
    let PoolAdapter { r#type, name, parent, managed, wwnn, wwpn } = adapter;
    let is_host = *r#type == AdapterType::ScsiHost;
    let kind = if is_host { "scsi_host" } else { "fc_host" };
    for (field, there, needed, known) in [
        ("source.adapter.name", name.is_some(), is_host, is_host),
        ("source.adapter.wwnn", wwnn.is_some(), !is_host, !is_host),
        ("source.adapter.wwpn", wwpn.is_some(), !is_host, !is_host),
        ("source.adapter.parent", parent.is_some(), false, !is_host),
        ("source.adapter.managed", managed.is_some(), false, !is_host),
    ] {
        if needed && !there {
            wrong.add(field, format!("is needed for {kind}"));
        } else if there && !known {
            wrong.add(field, format!("is not known to {kind}"));
        }
    }
}

fn check_auth(wrong: &mut Wrong, word: &str, auth: &PoolAuth, known: Option<AuthType>) {
    match known {
        None => wrong.add("source.auth", format!("is not known to type {word}")),
        Some(known) if known != auth.r#type => {
            wrong.add("source.auth.type", format!("must be {} for type {word}", known.as_str()));
        }
        Some(_) => {}
    }
    if auth.secret.uuid.is_some() == auth.secret.usage.is_some() {
        wrong.add("source.auth.secret", "needs either uuid or usage");
    }
}

fn check_target(wrong: &mut Wrong, word: &str, rules: &Rules, target: &PoolTarget) {
    let path = target.path.as_deref();
    match rules.place {
        Place::Nowhere if path.is_some() => {
            wrong.add("target.path", format!("is not known to type {word}"));
        }
        Place::Folder if path.is_none() => {
            wrong.add("target.path", format!("is needed for type {word}"));
        }
        _ => {}
    }
    if let Some(path) = path {
        if let Some(problem) = unlike_a_path(path) {
            wrong.add("target.path", problem);
        } else if rules.place == Place::Folder {
            if let Some(system) = system_folder(path) {
                let problem = format!("{system} belongs to the system, not to volumes");
                wrong.add("target.path", problem);
            }
        } else if rules.place != Place::Nowhere && !Path::new(path).starts_with("/dev") {
            wrong.add("target.path", "is not below /dev, where the volumes of this type are");
        }
    }
    if target.permissions.is_some() && rules.place != Place::Folder {
        wrong.add("target.permissions", format!("are not known to type {word}: it has no folder"));
    }
}

/// What is wrong with a path, if it is not absolute and normalised.
fn unlike_a_path(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("is not an absolute path".to_owned());
    }
    if path.len() > 4095 {
        return Some("is longer than a path can be".to_owned());
    }
    let mut parts = path[1..].split('/');
    if parts.clone().any(|part| part == "..") {
        return Some("holds '..'".to_owned());
    }
    if parts.any(|part| part.is_empty() || part == ".") {
        return Some("is not normalised: it holds '//', '/.' or ends with '/'".to_owned());
    }
    None
}

fn no_steps_up(text: &str) -> Option<String> {
    let bad = text.split('/').any(|part| matches!(part, "." | ".."));
    bad.then(|| "holds '.' or '..'".to_owned())
}

/// The folder of the system that a path is in, if it is in one: its files are not volumes, and a
/// pool would make them look and be handled like some.
fn system_folder(path: &str) -> Option<&'static str> {
    const SYSTEM: [&str; 10] =
        ["/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr"];
    const WHOLE: [&str; 4] = ["/home", "/root", "/run", "/var"];
    let path = Path::new(path);
    let within = SYSTEM.into_iter().find(|folder| path.starts_with(folder));
    within.or_else(|| WHOLE.into_iter().find(|folder| path == Path::new(folder)))
}

/// What is to be made, if anything is.
///
/// # Errors
/// 422 if there is nothing that could be made, or not so.
pub(super) fn making(request: &CreatePool, spec: &PoolSpec) -> Result<Option<BuildMode>> {
    let word = spec.r#type.as_str();
    let impossible = |field: &str, problem: String| {
        Err(Error::new(Kind::Impossible, format!("{field}: {problem}")).with_field(field, problem))
    };
    let making = rules(spec.r#type).making;
    let build = request.build.unwrap_or(making == Making::Folder);
    if request.overwrite && !(build && making == Making::OnDevices(true)) {
        let problem = if build {
            format!("a pool of type {word} overwrites nothing")
        } else {
            "needs build=true".to_owned()
        };
        return impossible("overwrite", problem);
    }
    match making {
        // The mount point is made all the same.
        Making::OnDevices(_) if !build && spec.r#type == PoolType::Fs => {
            Ok(Some(BuildMode::Folder))
        }
        _ if !build && spec.r#type == PoolType::Logical && !spec.source.devices.is_empty() => {
            impossible(
                "source.devices",
                "a volume group that is there is found by its name; devices are for build=true"
                    .to_owned(),
            )
        }
        _ if !build => Ok(None),
        Making::Nothing => {
            impossible("build", format!("a pool of type {word} has nothing that could be made"))
        }
        Making::Folder => Ok(Some(BuildMode::Folder)),
        Making::OnDevices(can_overwrite) => {
            if spec.source.devices.is_empty() {
                return impossible("source.devices", "building needs at least one".to_owned());
            }
            let format = spec.source.format.as_deref();
            if spec.r#type == PoolType::Fs && matches!(format, None | Some("auto")) {
                return impossible(
                    "source.format",
                    "building needs a file system's name, such as ext4 or xfs".to_owned(),
                );
            }
            Ok(Some(match (can_overwrite, request.overwrite) {
                (true, true) => BuildMode::Overwrite,
                (true, false) => BuildMode::Careful,
                (false, _) => BuildMode::Folder,
            }))
        }
    }
}

/// Whether this host's libvirt can do such a pool.
///
/// # Errors
/// 422 with the reason.
pub(super) fn supported(capabilities: Option<&Capabilities>, spec: &PoolSpec) -> Result<()> {
    let word = spec.r#type.as_str();
    let Some(known) = capabilities.map(|known| &known.storage_pools) else { return Ok(()) };
    if known.is_empty() {
        return Ok(());
    }
    let found = known.iter().find(|known| known.r#type == word);
    if !found.is_some_and(|known| known.supported) {
        let why = match found {
            Some(_) => "its storage driver is not installed or its tools are missing",
            None => "it does not know such pools",
        };
        let can: Vec<&str> = known
            .iter()
            .filter(|known| known.supported)
            .map(|known| known.r#type.as_str())
            .collect();
        return Err(Error::new(
            Kind::NotSupported,
            format!("this host's libvirt cannot do pools of type {word}: {why}"),
        )
        .with_hint(format!(
            "install libvirt's storage driver for {word} (Debian and Fedora: \
             libvirt-daemon-driver-storage-{word}) and restart libvirt; it can do {}",
            can.join(", ")
        ))
        .with_detail("supported", can)
        .with_field("type", format!("{word} is not supported by this host's libvirt")));
    }
    let formats = found.map(|known| known.source_formats.as_slice()).unwrap_or_default();
    if let Some(format) = &spec.source.format
        && !formats.is_empty()
        && !formats.contains(format)
    {
        return Err(Error::new(
            Kind::NotSupported,
            format!("this host's libvirt knows no format {format:?} for pools of type {word}"),
        )
        .with_hint(format!("it knows {}", formats.join(", ")))
        .with_field("source.format", format!("is not one of {}", formats.join(", "))));
    }
    Ok(())
}

/// Whether no other pool has this folder, or one within or around it.
///
/// # Errors
/// 409 with the other pool.
pub(super) fn apart(picture: &Picture, own: &str, r#type: PoolType, path: &str) -> Result<()> {
    if rules(r#type).place != Place::Folder {
        return Ok(());
    }
    let path = Path::new(path);
    let other = picture.pools.iter().find(|record| {
        record.pool.name != own
            && has_folder(&record.pool.r#type)
            && record.pool.target_path.as_deref().is_some_and(|known| {
                let known = Path::new(known);
                known.starts_with(path) || path.starts_with(known)
            })
    });
    let Some(other) = other else { return Ok(()) };
    let known = other.pool.target_path.as_deref().unwrap_or_default();
    let how = if Path::new(known) == path {
        "is"
    } else if path.starts_with(known) {
        "is inside"
    } else {
        "holds"
    };
    Err(Error::new(
        Kind::PoolConflict,
        format!(
            "the target {} {how} {known}, which is the pool {:?}",
            path.display(),
            other.pool.name
        ),
    )
    .with_detail("pool", other.pool.name.as_str())
    .with_field("target.path", format!("{how} the folder of the pool {:?}", other.pool.name)))
}

#[cfg(test)]
mod tests;
