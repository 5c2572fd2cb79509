//! The small languages of create's and update's options, and bodies from files.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::text::{parse_gib, parse_mib};
use crate::model::firmware::TpmChoice;
use crate::model::vm_request::{
    Bandwidth, BootDevice, ClockOffset, ClockRequest, CpuFeature, CpuMode, CpuPin, CpuRequest,
    CpuTopology, DiskBus, DiskFormat, FeaturePolicy, FilesystemRequest, NumaRequest, PciAddress,
    VsockRequest, WatchdogRequest,
};
use crate::model::{
    DiskAction, DiskDevice, DiskRequest, LabelKey, LabelValue, NetworkName, NicRequest,
    NicSourceType, ResourceName, TpmRequest, VmName, VolumeRef,
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

/// A TPM: `yes` for what suits the machine, else its model.
pub fn tpm(text: &str) -> Result<TpmRequest, String> {
    match yes_no(text) {
        Ok(wanted) => Ok(TpmRequest::Simple(wanted)),
        Err(_) => word(text)
            .map(|model| TpmRequest::Full(TpmChoice { model: Some(model), version: None })),
    }
}

pub(super) fn resource(text: &str) -> Result<ResourceName, String> {
    text.parse().map_err(|error: crate::error::Error| error.message().to_owned())
}

fn network(text: &str) -> Result<NetworkName, String> {
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
    let (first, rest) = head(text);
    let mut disk = disk(DiskAction::Create);
    // `size=20,pool=fast` says the same as `20,pool=fast`.
    let options = if first.contains('=') { text } else { rest };
    if !first.contains('=') {
        disk.size = Some(parse_gib(first)?);
    }
    disk_options(disk, options, &[&["size", "pool", "volume", "format"], TUNING].concat())
}

/// What every disk can be told.
const TUNING: &[&str] =
    &["bus", "serial", "boot-order", "target", "cache", "io", "discard", "iothread"];

/// A drive without a medium: `cdrom` or `floppy`.
pub fn drive(text: &str) -> Result<DiskRequest, String> {
    let (device, options) = head(text);
    let mut disk = disk(DiskAction::Create);
    disk.device = match device {
        "cdrom" => DiskDevice::Cdrom,
        "floppy" => DiskDevice::Floppy,
        _ => return Err("an empty drive is cdrom or floppy".to_owned()),
    };
    disk_options(disk, options, &["bus", "boot-order", "target"])
}

/// An image of the ISO library in a CD drive.
pub fn iso(text: &str) -> Result<DiskRequest, String> {
    let (image, options) = head(text);
    let mut disk = disk(DiskAction::Attach);
    disk.iso = Some(image.to_owned());
    disk.device = DiskDevice::Cdrom;
    disk.read_only = true;
    disk_options(disk, options, &["bus", "boot-order", "target"])
}

/// `POOL/VOLUME[,OPTION=VALUE…]` or a volume's path: an existing volume as a disk.
pub fn attached_disk(text: &str) -> Result<DiskRequest, String> {
    let (source, options) = head(text);
    let disk = attach(source)?;
    disk_options(disk, options, &[&["read-only", "shareable"], TUNING].concat())
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
    let known = [&["size", "pool", "volume", "format", "linked"], TUNING].concat();
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

/// `NAME`, `bridge:NAME`, `direct:DEVICE` or `user`: what a NIC is plugged into.
pub(super) fn plugged_into(source: &str) -> Result<(NicSourceType, Option<NetworkName>), String> {
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
    Ok((r#type, source.map(network).transpose()?))
}

/// A VM's name to be.
pub fn new_name(text: &str) -> Result<VmName, String> {
    text.parse().map_err(|error: crate::error::Error| error.message().to_owned())
}

/// `NAME`, `bridge:NAME`, `direct:DEVICE` or `user`, with `,model=…,mac=…,boot-order=…`.
pub fn nic(text: &str) -> Result<NicRequest, String> {
    let (source, options) = head(text);
    let (r#type, source) = plugged_into(source)?;
    let mut nic = NicRequest { r#type, source, ..NicRequest::default() };
    for (key, value) in pairs(options) {
        match key {
            "mode" => nic.mode = Some(word(value)?),
            "vlan" => nic.vlan = Some(value.parse().map_err(|_| "a VLAN is a number".to_owned())?),
            "inbound" => nic.inbound = Some(bandwidth(value)?),
            "outbound" => nic.outbound = Some(bandwidth(value)?),
            "isolated" => nic.isolated = value.is_empty() || yes_no(value)?,
            "model" => nic.model = Some(resource(value)?),
            "mac" => nic.mac = Some(value.to_owned()),
            "boot-order" => nic.boot_order = Some(number(value)?),
            "link" => nic.link_up = Some(yes_no(value)?),
            _ => return Err(unknown(key, NIC_OPTIONS)),
        }
    }
    Ok(nic)
}

const NIC_OPTIONS: &[&str] =
    &["model", "mac", "boot-order", "link", "mode", "vlan", "inbound", "outbound", "isolated"];

/// `AVERAGE[:PEAK[:BURST]]`, in KiB and KiB per second.
pub(super) fn bandwidth(text: &str) -> Result<Bandwidth, String> {
    let wrong = || "a limit is AVERAGE[:PEAK[:BURST]] in KiB per second".to_owned();
    let numbers: Vec<u64> =
        text.split(':').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    match numbers.as_slice() {
        [average] => Ok(Bandwidth { average: *average, peak: None, burst: None }),
        [average, peak] => Ok(Bandwidth { average: *average, peak: Some(*peak), burst: None }),
        [average, peak, burst] => {
            Ok(Bandwidth { average: *average, peak: Some(*peak), burst: Some(*burst) })
        }
        _ => Err(wrong()),
    }
}

/// `MODE`, or a CPU model, with `,sockets=,dies=,cores=,threads=` and `,+FEATURE`, `,-FEATURE`.
pub fn cpu(text: &str) -> Result<CpuRequest, String> {
    let (name, options) = head(text);
    let mut cpu = CpuRequest::default();
    match word::<CpuMode>(name) {
        Ok(mode) => cpu.mode = Some(mode),
        Err(_) => cpu.model = Some(resource(name)?),
    }
    let mut parts = [None; 4];
    let mut features = Vec::new();
    for (key, value) in pairs(options) {
        let feature = |policy| CpuFeature { name: key[1..].to_owned(), policy };
        match key {
            "sockets" => parts[0] = Some(number(value)?),
            "dies" => parts[1] = Some(number(value)?),
            "cores" => parts[2] = Some(number(value)?),
            "threads" => parts[3] = Some(number(value)?),
            _ if key.starts_with('+') => features.push(feature(FeaturePolicy::Require)),
            _ if key.starts_with('-') => features.push(feature(FeaturePolicy::Disable)),
            _ => {
                let known = ["sockets", "dies", "cores", "threads", "+FEATURE", "-FEATURE"];
                return Err(unknown(key, &known));
            }
        }
    }
    if parts.iter().any(Option::is_some) {
        cpu.topology = Some(CpuTopology {
            sockets: parts[0].unwrap_or(1),
            dies: parts[1],
            cores: parts[2].unwrap_or(1),
            threads: parts[3],
        });
    }
    cpu.features = (!features.is_empty()).then_some(features);
    Ok(cpu)
}

/// `VCPU=CPUS`.
pub fn pin(text: &str) -> Result<CpuPin, String> {
    let (vcpu, cpus) = text.split_once('=').ok_or("a pinning is VCPU=CPUS, such as 0=2-3")?;
    Ok(CpuPin { vcpu: number(vcpu)?, cpus: cpus.to_owned() })
}

/// `CPUS:MEMORY`.
pub fn numa(text: &str) -> Result<NumaRequest, String> {
    let (cpus, memory) = text.split_once(':').ok_or("a NUMA cell is CPUS:MEMORY")?;
    Ok(NumaRequest { cpus: cpus.to_owned(), memory: parse_mib(memory)? })
}

/// `DIRECTORY:TAG[,read-only]`.
pub fn filesystem(text: &str) -> Result<FilesystemRequest, String> {
    let (what, options) = head(text);
    let (source, tag) = what.rsplit_once(':').ok_or("a shared directory is DIRECTORY:TAG")?;
    let mut filesystem =
        FilesystemRequest { source: source.to_owned(), tag: tag.to_owned(), read_only: false };
    for (key, value) in pairs(options) {
        match key {
            "read-only" => filesystem.read_only = value.is_empty() || yes_no(value)?,
            _ => return Err(unknown(key, &["read-only"])),
        }
    }
    Ok(filesystem)
}

/// `MODEL[,action=…]`, `default` for the usual model.
pub fn watchdog(text: &str) -> Result<WatchdogRequest, String> {
    let (model, options) = head(text);
    let model = (model != "default").then(|| word(model)).transpose()?;
    let mut watchdog = WatchdogRequest { model, action: None };
    for (key, value) in pairs(options) {
        match key {
            "action" => watchdog.action = Some(word(value)?),
            _ => return Err(unknown(key, &["action"])),
        }
    }
    Ok(watchdog)
}

/// `auto` or a context id.
pub fn vsock(text: &str) -> Result<VsockRequest, String> {
    let cid = (text != "auto").then(|| number(text)).transpose()?;
    Ok(VsockRequest { cid })
}

/// A value, or `none` for it: no option that may be absent, for which `Option<Option<_>>` would stand.
pub type OrNone<T> = Option<T>;

/// What `parse` reads, or `none`.
pub fn or_none<T: 'static>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<OrNone<T>, String> + Clone {
    move |text| (text != "none").then(|| parse(text)).transpose()
}

/// A PCI address.
pub fn pci(text: &str) -> Result<PciAddress, String> {
    PciAddress::try_from(text.to_owned()).map_err(|error| error.message().to_owned())
}

/// `utc`, `localtime` or the name of a time zone.
pub fn clock(text: &str) -> Result<ClockRequest, String> {
    Ok(match word::<ClockOffset>(text) {
        Ok(ClockOffset::Timezone) | Err(_) => {
            ClockRequest { offset: None, timezone: Some(text.to_owned()) }
        }
        Ok(offset) => ClockRequest { offset: Some(offset), timezone: None },
    })
}

fn disk(action: DiskAction) -> DiskRequest {
    DiskRequest { action, ..DiskRequest::default() }
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
            "shareable" => disk.shareable = value.is_empty() || yes_no(value)?,
            "linked" => disk.linked = value.is_empty() || yes_no(value)?,
            "cache" => disk.cache = Some(word(value)?),
            "io" => disk.io = Some(word(value)?),
            "discard" => disk.discard = Some(word(value)?),
            "iothread" => disk.iothread = Some(number(value)?),
            "target" => disk.target = Some(value.to_owned()),
            _ => return Err(unknown(key, known)),
        }
    }
    Ok(disk)
}

/// One of the words of an enumeration of the model.
pub fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(Value::from(text)).map_err(|error| error.to_string())
}

pub(super) fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

pub(super) fn head(text: &str) -> (&str, &str) {
    text.split_once(',').unwrap_or((text, ""))
}

pub(super) fn pairs(options: &str) -> impl Iterator<Item = (&str, &str)> {
    options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|option| option.split_once('=').unwrap_or((option, "")))
}

pub(super) fn unknown(key: &str, known: &[&str]) -> String {
    format!("unknown option {key:?}; there are {}", known.join(", "))
}

/// Reads a request's body: JSON or YAML by what it looks like, or TOML by the file's name; `-` is
/// stdin. No file is no body.
///
/// # Errors
/// [`Exit::Refused`] for a file that cannot be read or understood.
pub fn read_body(cx: &mut Context, file: Option<&str>) -> Result<Value> {
    let Some(file) = file else { return Ok(Value::Object(Map::new())) };
    let text = read_file(cx, file)?;
    let refuse = |error: String| {
        Failure::new(Exit::Refused, format!("{file} cannot be understood: {}", error.trim()))
    };
    let extension = Path::new(file).extension().and_then(|name| name.to_str());
    let is_json = text.trim_start().starts_with('{') || extension == Some("json");
    let value: Value = if extension == Some("toml") {
        toml::from_str(&text).map_err(|error| refuse(error.to_string()))?
    } else if is_json {
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?
    } else {
        serde_saphyr::from_str(&text).map_err(|error| refuse(error.to_string()))?
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

/// The members of `base` with those of `over` put over them, objects in objects alike.
pub fn overlay(base: Value, over: Value) -> Value {
    match (base, over) {
        (Value::Object(mut base), Value::Object(over)) => {
            for (key, value) in over {
                let present = base.remove(&key).unwrap_or(Value::Null);
                base.insert(key, overlay(present, value));
            }
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
    fn a_tpm_is_asked_for_with_or_without_its_model() {
        assert_eq!(value(tpm("yes")), json!(true));
        assert_eq!(value(tpm("tpm-tis")), json!({"model": "tpm-tis"}));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        assert!(new_disk("20,color=red").unwrap_err().contains("there are size"));
        assert!(new_disk("20,bus=bogus").is_err());
        assert!(attached_disk("nopool").unwrap_err().contains("POOL/VOLUME"));
        assert!(nic("token:ring").is_err());
        assert!(label("novalue").is_err());
        assert!(boot_device("usb").is_err());
        assert!(yes_no("maybe").is_err());
        assert!(tpm("tpm-x").unwrap_err().contains("tpm-crb"));
    }
}
