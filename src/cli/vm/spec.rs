//! The small languages of create's and update's options, and bodies from files.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::text::parse_gib;
use crate::model::vm_request::{BootDevice, DiskBus, DiskFormat};
use crate::model::{
    DiskAction, DiskDevice, DiskRequest, LabelKey, LabelValue, NicRequest, NicSourceType,
    ResourceName, VolumeRef,
};

/// What a file of a request may hold at most.
const MAX_FILE: u64 = 16 << 20;

/// `KEY=VALUE`.
pub fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    let key = key.parse().map_err(|error: crate::error::Error| error.message().to_owned())?;
    let value =
        LabelValue::try_from(value.to_owned()).map_err(|error| error.message().to_owned())?;
    Ok((key, value))
}

/// A boot device's word.
pub fn boot_device(text: &str) -> Result<BootDevice, String> {
    [BootDevice::Hd, BootDevice::Cdrom, BootDevice::Network, BootDevice::Fd]
        .into_iter()
        .find(|device| device.as_str() == text)
        .ok_or_else(|| "boot devices are hd, cdrom, network and fd".to_owned())
}

/// `yes` or `no`, and what else people say for them.
pub fn yes_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" => Ok(true),
        "no" | "false" | "off" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

fn resource(text: &str) -> Result<ResourceName, String> {
    text.parse().map_err(|error: crate::error::Error| error.message().to_owned())
}

/// `POOL/VOLUME`.
pub fn volume(text: &str) -> Result<VolumeRef, String> {
    match text.split_once('/') {
        Some((pool, volume)) if !pool.is_empty() && !volume.is_empty() => {
            Ok(VolumeRef { pool: pool.to_owned(), volume: volume.to_owned() })
        }
        _ => Err("a volume is POOL/VOLUME; `vapor volume list` shows them".to_owned()),
    }
}

/// `SIZE[,OPTION=VALUE…]`: a new disk.
pub fn new_disk(text: &str) -> Result<DiskRequest, String> {
    let (size, options) = head(text);
    let mut disk = disk(DiskAction::Create);
    disk.size = Some(parse_gib(size)?);
    disk_options(disk, options, &["pool", "volume", "format", "bus", "serial", "boot-order"])
}

/// `POOL/VOLUME[,OPTION=VALUE…]` or a volume's path: an existing volume as a disk.
pub fn attached_disk(text: &str) -> Result<DiskRequest, String> {
    let (source, options) = head(text);
    let disk = attach(source)?;
    disk_options(disk, options, &["bus", "serial", "boot-order", "read-only"])
}

/// The same for a CD drive.
pub fn cdrom(text: &str) -> Result<DiskRequest, String> {
    let (source, options) = head(text);
    let mut disk = attach(source)?;
    disk.device = DiskDevice::Cdrom;
    disk.read_only = true;
    disk_options(disk, options, &["bus", "boot-order"])
}

/// `POOL/VOLUME[,OPTION=VALUE…]` or a volume's path: a copy of a volume as a disk.
pub fn cloned_disk(text: &str) -> Result<DiskRequest, String> {
    let (source, options) = head(text);
    let mut disk = disk(DiskAction::Clone);
    if source.starts_with('/') {
        disk.path = Some(source.to_owned());
    } else {
        disk.source = Some(volume(source)?);
    }
    let known = ["size", "pool", "volume", "format", "bus", "serial", "boot-order"];
    disk_options(disk, options, &known)
}

fn attach(source: &str) -> Result<DiskRequest, String> {
    let mut disk = disk(DiskAction::Attach);
    if source.starts_with('/') {
        disk.path = Some(source.to_owned());
    } else {
        let VolumeRef { pool, volume } = volume(source)?;
        disk.pool = Some(resource(&pool)?);
        disk.volume = Some(volume);
    }
    Ok(disk)
}

/// `NAME`, `bridge:NAME`, `direct:DEVICE` or `user`, with `,model=…,mac=…,boot-order=…`.
pub fn nic(text: &str) -> Result<NicRequest, String> {
    let (source, options) = head(text);
    let (r#type, source) = match source.split_once(':') {
        Some(("network", name)) => (NicSourceType::Network, Some(name)),
        Some(("bridge", name)) => (NicSourceType::Bridge, Some(name)),
        Some(("direct", name)) => (NicSourceType::Direct, Some(name)),
        Some((other, _)) => {
            return Err(format!(
                "unknown kind {other:?}: a NIC is NETWORK, bridge:NAME, direct:DEVICE or user"
            ));
        }
        None if source == "user" => (NicSourceType::User, None),
        None => (NicSourceType::Network, Some(source)),
    };
    let mut nic = NicRequest {
        r#type,
        source: source.map(resource).transpose()?,
        model: None,
        mac: None,
        boot_order: None,
        link_up: None,
    };
    for (key, value) in pairs(options) {
        match key {
            "model" => nic.model = Some(resource(value)?),
            "mac" => nic.mac = Some(value.to_owned()),
            "boot-order" => nic.boot_order = Some(number(value)?),
            "link" => nic.link_up = Some(yes_no(value)?),
            _ => return Err(unknown(key, &["model", "mac", "boot-order", "link"])),
        }
    }
    Ok(nic)
}

const fn disk(action: DiskAction) -> DiskRequest {
    DiskRequest {
        action,
        size: None,
        format: None,
        pool: None,
        volume: None,
        path: None,
        source: None,
        device: DiskDevice::Disk,
        bus: None,
        boot_order: None,
        read_only: false,
        serial: None,
    }
}

fn disk_options(
    mut disk: DiskRequest,
    options: &str,
    known: &[&str],
) -> Result<DiskRequest, String> {
    for (key, value) in pairs(options) {
        if !known.contains(&key) {
            return Err(unknown(key, known));
        }
        match key {
            "size" => disk.size = Some(parse_gib(value)?),
            "pool" => disk.pool = Some(resource(value)?),
            "volume" => disk.volume = Some(value.to_owned()),
            "format" => disk.format = Some(word::<DiskFormat>(value)?),
            "bus" => disk.bus = Some(word::<DiskBus>(value)?),
            "boot-order" => disk.boot_order = Some(number(value)?),
            "serial" => disk.serial = Some(value.to_owned()),
            "read-only" => disk.read_only = value.is_empty() || yes_no(value)?,
            _ => return Err(unknown(key, known)),
        }
    }
    Ok(disk)
}

/// One of the words of an enumeration of the model.
pub fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|error| error.to_string())
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

fn head(text: &str) -> (&str, &str) {
    text.split_once(',').unwrap_or((text, ""))
}

fn pairs(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|option| option.split_once('=').unwrap_or((option, "")))
}

fn unknown(key: &str, known: &[&str]) -> String {
    format!("unknown option {key:?}; there are {}", known.join(", "))
}

/// Reads a request's body: JSON, or TOML by the file's name; `-` is stdin. No file is no body.
///
/// # Errors
/// [`Exit::Refused`] for a file that cannot be read or understood.
pub fn read_body(cx: &mut Context, file: Option<&str>) -> Result<Value> {
    let Some(file) = file else { return Ok(Value::Object(Map::new())) };
    let text = read_file(cx, file)?;
    let refuse = |error: String| {
        Failure::new(Exit::Refused, format!("{file} cannot be understood: {}", error.trim()))
    };
    let value: Value = if Path::new(file).extension().is_some_and(|name| name == "toml") {
        toml::from_str(&text).map_err(|error| refuse(error.to_string()))?
    } else {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?
    };
    if !value.is_object() {
        return Err(refuse("it holds no object".to_owned()));
    }
    Ok(value)
}

/// Reads a text file; `-` is stdin.
///
/// # Errors
/// [`Exit::Refused`] for a file that cannot be read, is too large or no UTF-8.
pub fn read_file(cx: &mut Context, file: &str) -> Result<String> {
    let refuse = |why: String| Failure::new(Exit::Refused, format!("cannot read {file}: {why}"));
    let mut bytes = Vec::new();
    let read = if file == "-" {
        (&mut cx.terminal.input).take(MAX_FILE + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".to_owned()))
}

/// The members of `base` with those of `over` put over them.
pub fn overlay(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            base.extend(over);
            Value::Object(base)
        }
        (_, over) => over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::super::without_nulls;
    use super::*;

    fn value<T: serde::Serialize>(parsed: Result<T, String>) -> Value {
        without_nulls(to_value(parsed.unwrap()).unwrap())
    }

    #[test]
    fn disks_are_said_in_one_word_or_with_options() {
        assert_eq!(
            value(new_disk("20G,pool=fast,format=raw,bus=sata")),
            json!({"action": "create", "size": 20, "format": "raw", "pool": "fast",
                "device": "disk", "bus": "sata", "read_only": false})
        );
        assert_eq!(
            value(attached_disk("default/data.qcow2,read-only")),
            json!({"action": "attach", "pool": "default", "volume": "data.qcow2",
                "device": "disk", "read_only": true})
        );
        assert_eq!(
            value(cdrom("/var/lib/isos/a.iso")),
            json!({"action": "attach", "path": "/var/lib/isos/a.iso", "device": "cdrom", "read_only": true})
        );
        assert_eq!(
            value(cloned_disk("images/debian.qcow2,size=30,volume=w.qcow2"))["source"],
            json!({"pool": "images", "volume": "debian.qcow2"})
        );
    }

    #[test]
    fn nics_are_networks_unless_they_say_otherwise() {
        assert_eq!(value(nic("default")), json!({"type": "network", "source": "default"}));
        assert_eq!(
            value(nic("bridge:br0,model=e1000e,mac=52:54:00:00:00:01")),
            json!({"type": "bridge", "source": "br0", "model": "e1000e", "mac": "52:54:00:00:00:01"})
        );
        assert_eq!(value(nic("user")), json!({"type": "user"}));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        assert!(new_disk("20,color=red").unwrap_err().contains("there are pool"));
        assert!(new_disk("20,bus=bogus").is_err());
        assert!(attached_disk("nopool").unwrap_err().contains("POOL/VOLUME"));
        assert!(nic("token:ring").is_err());
        assert!(label("novalue").is_err());
        assert!(boot_device("usb").is_err());
        assert!(yes_no("maybe").is_err());
    }
}
