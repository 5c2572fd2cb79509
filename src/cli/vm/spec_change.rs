//! The small languages of update's options: which disk or NIC, and what changes of it.

use super::super::failure::Result;
use super::super::text::parse_gib;
use super::spec::{bandwidth, head, number, pairs, plugged_into, resource, unknown, word, yes_no};
use crate::model::vm_update::{LimitChange, UpdateDisk, UpdateNic};

/// `TARGET=SIZE`: a disk that grows.
pub fn grown_disk(text: &str) -> Result<UpdateDisk, String> {
    let (target, size) = text.split_once('=').ok_or("it is TARGET=SIZE, such as vda=40G")?;
    let target = target.parse().map_err(|error: crate::error::Error| error.message().to_owned())?;
    Ok(UpdateDisk { size: Some(parse_gib(size)?), ..UpdateDisk::of(target) })
}

/// `MAC=up` or `MAC=down`.
pub fn nic_link(text: &str) -> Result<UpdateNic, String> {
    let (mac, word) = text.split_once('=').ok_or("it is MAC=up or MAC=down")?;
    let link_up = match word {
        "up" => true,
        "down" => false,
        _ => return Err(format!("{word:?} is neither up nor down")),
    };
    Ok(UpdateNic { link_up: Some(link_up), ..changed_nic(mac) })
}

/// `MAC=SOURCE`, where the source is as for a new NIC.
pub fn nic_source(text: &str) -> Result<UpdateNic, String> {
    let (mac, source) = text.split_once('=').ok_or("it is MAC=NETWORK, or MAC=bridge:NAME")?;
    let (r#type, source) = plugged_into(source)?;
    Ok(UpdateNic { r#type: Some(r#type), source, ..changed_nic(mac) })
}

fn changed_nic(mac: &str) -> UpdateNic {
    UpdateNic { mac: mac.to_owned(), ..UpdateNic::default() }
}

const DISK_OPTIONS: &[&str] =
    &["size", "read-only", "serial", "cache", "io", "discard", "iothread", "bus", "boot-order"];

/// `TARGET,OPTION=VALUE…`: what changes of a disk.
pub fn changed_disk(text: &str) -> Result<UpdateDisk, String> {
    let (target, options) = head(text);
    let target = target.parse().map_err(|error: crate::error::Error| error.message().to_owned())?;
    let mut disk = UpdateDisk::of(target);
    for (key, value) in pairs(options) {
        match key {
            "size" => disk.size = Some(parse_gib(value)?),
            "read-only" => disk.read_only = Some(value.is_empty() || yes_no(value)?),
            "serial" => disk.serial = Some(value.to_owned()),
            "cache" => disk.cache = Some(word(value)?),
            "io" => disk.io = Some(word(value)?),
            "discard" => disk.discard = Some(word(value)?),
            "iothread" => disk.iothread = Some(number(value)?),
            "bus" => disk.bus = Some(word(value)?),
            "boot-order" => disk.boot_order = Some(number(value)?),
            _ => return Err(unknown(key, DISK_OPTIONS)),
        }
    }
    Ok(disk)
}

const NIC_OPTIONS: &[&str] =
    &["model", "link", "inbound", "outbound", "isolated", "vlan", "mode", "boot-order"];

/// `MAC,OPTION=VALUE…`: what changes of a NIC.
pub fn nic_options(text: &str) -> Result<UpdateNic, String> {
    let (mac, options) = head(text);
    let mut nic = changed_nic(mac);
    for (key, value) in pairs(options) {
        match key {
            "model" => nic.model = Some(resource(value)?),
            "link" => nic.link_up = nic_link(&format!("{mac}={value}"))?.link_up,
            "inbound" => nic.inbound = Some(limit(value)?),
            "outbound" => nic.outbound = Some(limit(value)?),
            "isolated" => nic.isolated = Some(value.is_empty() || yes_no(value)?),
            "vlan" => {
                nic.vlan = Some(value.parse().map_err(|_| "a VLAN is a number".to_owned())?);
            }
            "mode" => nic.mode = Some(word(value)?),
            "boot-order" => nic.boot_order = Some(number(value)?),
            _ => return Err(unknown(key, NIC_OPTIONS)),
        }
    }
    Ok(nic)
}

/// `AVERAGE[:PEAK[:BURST]]`, or 0 for no limit.
fn limit(text: &str) -> Result<LimitChange, String> {
    let limit = bandwidth(text)?;
    Ok(LimitChange { average: limit.average, peak: limit.peak, burst: limit.burst })
}

/// The disks to be changed, each of them once; what is said later wins.
pub fn disks<'a>(all: impl Iterator<Item = &'a UpdateDisk>) -> Vec<UpdateDisk> {
    let mut disks: Vec<UpdateDisk> = Vec::new();
    for one in all.cloned() {
        match disks.iter_mut().find(|disk| disk.target == one.target) {
            Some(disk) => {
                *disk = UpdateDisk {
                    target: one.target,
                    size: one.size.or(disk.size),
                    read_only: one.read_only.or(disk.read_only),
                    serial: one.serial.or(disk.serial.take()),
                    cache: one.cache.or(disk.cache),
                    io: one.io.or(disk.io),
                    discard: one.discard.or(disk.discard),
                    iothread: one.iothread.or(disk.iothread),
                    bus: one.bus.or(disk.bus),
                    boot_order: one.boot_order.or(disk.boot_order),
                };
            }
            None => disks.push(one),
        }
    }
    disks
}

/// The same for NICs.
pub fn nics<'a>(all: impl Iterator<Item = &'a UpdateNic>) -> Vec<UpdateNic> {
    let mut nics: Vec<UpdateNic> = Vec::new();
    for one in all.cloned() {
        match nics.iter_mut().find(|nic| nic.mac.eq_ignore_ascii_case(&one.mac)) {
            Some(nic) => {
                *nic = UpdateNic {
                    mac: one.mac,
                    r#type: one.r#type.or(nic.r#type),
                    source: one.source.or(nic.source.take()),
                    model: one.model.or(nic.model.take()),
                    link_up: one.link_up.or(nic.link_up),
                    inbound: one.inbound.or(nic.inbound),
                    outbound: one.outbound.or(nic.outbound),
                    isolated: one.isolated.or(nic.isolated),
                    vlan: one.vlan.or(nic.vlan),
                    mode: one.mode.or(nic.mode),
                    boot_order: one.boot_order.or(nic.boot_order),
                };
            }
            None => nics.push(one),
        }
    }
    nics
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::super::without_nulls;
    use super::*;

    #[test]
    fn changes_of_one_device_are_gathered_from_all_options() {
        let said = [grown_disk("vda=40G"), changed_disk("vda,cache=none,io=native,iothread=0")];
        let all: Vec<_> = said.into_iter().map(|said| said.unwrap()).collect();
        assert_eq!(
            to_value(disks(all.iter())).unwrap(),
            json!([{"target": "vda", "size": 40, "cache": "none", "io": "native", "iothread": 0}])
        );
        let said = [
            nic_link("52:54:00:00:00:0a=down"),
            nic_options("52:54:00:00:00:0A,inbound=100:200,outbound=0,isolated"),
        ];
        let all: Vec<_> = said.into_iter().map(|said| said.unwrap()).collect();
        assert_eq!(
            without_nulls(to_value(nics(all.iter())).unwrap()),
            json!([{"mac": "52:54:00:00:00:0A", "link_up": false, "isolated": true,
                "inbound": {"average": 100, "peak": 200},
                "outbound": {"average": 0}}])
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        assert!(changed_disk("vda,color=red").unwrap_err().contains("there are size"));
        assert!(changed_disk("vda,cache=bogus").is_err());
        assert!(nic_options("m,link=maybe").is_err());
    }
}
