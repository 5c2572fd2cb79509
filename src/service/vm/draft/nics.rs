//! The NICs of a draft.

use std::collections::HashSet;

use super::check::{clash, not_supported};
use crate::error::{Error, Kind, Result};
use crate::model::{NicRequest, NicSourceType, ResourceName};
use crate::service::inventory::Picture;
use crate::xml::domain::author::NicSpec;

pub(super) fn nics(
    requests: &[NicRequest],
    picture: &Picture,
    start: bool,
    default_model: &str,
) -> Result<Vec<NicSpec>> {
    let mut macs = HashSet::new();
    let mut nics = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let field = |name: &str| format!("networks[{index}].{name}");
        if request.boot_order.is_some_and(|order| !(1..=32).contains(&order)) {
            return Err(Error::field(field("boot_order"), "must be between 1 and 32"));
        }
        let source = request.source.as_ref().map(ToString::to_string);
        let source = match request.r#type {
            NicSourceType::Network => {
                let name = source.unwrap_or_else(|| "default".to_owned());
                let network = picture.network(&name)?;
                if start && !network.active {
                    return Err(Error::new(
                        Kind::NetworkInactive,
                        format!("the network {name:?} is not active"),
                    ));
                }
                Some(name)
            }
            NicSourceType::Bridge | NicSourceType::Direct => Some(source.ok_or_else(|| {
                clash(field("source"), "is required for a bridge or a direct NIC")
            })?),
            NicSourceType::User if source.is_some() => {
                return Err(Error::new(Kind::Impossible, "a user NIC has no source")
                    .with_field(field("source"), "must be absent for a user NIC"));
            }
            NicSourceType::User => None,
        };
        let mac = request.mac.as_ref().map(|mac| mac.to_ascii_lowercase());
        if let Some(mac) = &mac {
            check_mac(&field("mac"), mac)?;
            if !macs.insert(mac.clone()) {
                return Err(Error::new(Kind::Impossible, format!("the MAC {mac} twice"))
                    .with_field(field("mac"), "is that of another NIC of this VM"));
            }
            check_free(picture, index, mac)?;
        }
        check_options(&field, request, source.as_deref(), picture)?;
        nics.push(NicSpec {
            source_type: request.r#type,
            source,
            model: request.model.as_ref().map_or(default_model, ResourceName::as_str).to_owned(),
            mac: Some(mac.unwrap_or_else(|| new_mac(picture, &mut macs))),
            boot_order: request.boot_order,
            link_up: request.link_up.unwrap_or(true),
            mode: request.mode,
            vlan: request.vlan,
            inbound: request.inbound,
            outbound: request.outbound,
            isolated: request.isolated,
        });
    }
    Ok(nics)
}

/// 409 if a VM has the MAC address of one of these NICs to be.
pub(in crate::service::vm) fn check_all_free(picture: &Picture, nics: &[NicSpec]) -> Result<()> {
    let macs = nics.iter().enumerate().filter_map(|(index, nic)| Some((index, nic.mac.as_ref()?)));
    macs.into_iter().try_for_each(|(index, mac)| check_free(picture, index, mac))
}

fn check_free(picture: &Picture, index: usize, mac: &str) -> Result<()> {
    let Some(owner) = picture.vm_with_mac(mac) else { return Ok(()) };
    Err(Error::new(
        Kind::MacInUse,
        format!("the VM {owner:?} has a NIC with the MAC {mac} already"),
    )
    .with_field(format!("networks[{index}].mac"), "is that of another VM's NIC")
    .with_detail("vm", owner))
}

/// What of a NIC's options its type cannot have.
pub(in crate::service::vm) fn check_options(
    field: &dyn Fn(&str) -> String,
    request: &NicRequest,
    source: Option<&str>,
    picture: &Picture,
) -> Result<()> {
    use NicSourceType::{Bridge, Direct, Network, User};
    if request.mode.is_some() && request.r#type != Direct {
        return Err(clash(field("mode"), "is for direct NICs"));
    }
    for (name, limit) in [("inbound", request.inbound), ("outbound", request.outbound)] {
        let Some(limit) = limit else { continue };
        let most = u64::from(u32::MAX);
        let parts =
            [("average", Some(limit.average)), ("peak", limit.peak), ("burst", limit.burst)];
        for (part, value) in parts {
            if value.is_some_and(|value| !(1..=most).contains(&value)) {
                return Err(Error::field(
                    field(&format!("{name}.{part}")),
                    format!("must be between 1 and {most} KiB"),
                ));
            }
        }
        if limit.peak.is_some_and(|peak| peak < limit.average) {
            return Err(clash(field(&format!("{name}.peak")), "is less than the average"));
        }
        if request.r#type == User {
            return Err(not_supported(&field(name), "libvirt limits no user NIC"));
        }
    }
    if let Some(tag) = request.vlan {
        if !(1..=4094).contains(&tag) {
            return Err(Error::field(field("vlan"), "must be between 1 and 4094"));
        }
        let can = match (request.r#type, source) {
            (Network, Some(name)) => picture.network(name)?.forward.mode == "hostdev",
            _ => false,
        };
        if !can {
            return Err(not_supported(&field("vlan"), "libvirt tags no traffic there").with_hint(
                "use a network that passes host devices through, or a bridge in the VLAN",
            ));
        }
    }
    if request.isolated && !matches!(request.r#type, Network | Bridge) {
        return Err(clash(field("isolated"), "is for NICs on a bridge"));
    }
    Ok(())
}

/// A random address in QEMU's range that no VM has.
fn new_mac(picture: &Picture, taken: &mut HashSet<String>) -> String {
    loop {
        let random = uuid::Uuid::new_v4().into_bytes();
        let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", random[0], random[1], random[2]);
        if picture.vm_with_mac(&mac).is_none() && taken.insert(mac.clone()) {
            return mac;
        }
    }
}

pub(in crate::service::vm) fn check_mac(field: &str, mac: &str) -> Result<()> {
    let parts: Vec<&str> = mac.split(':').collect();
    let well_formed = parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()));
    if !well_formed {
        return Err(Error::field(field, "is not six hexadecimal pairs with colons"));
    }
    let first = u8::from_str_radix(parts[0], 16).unwrap_or(1);
    if first & 1 == 1 || mac == "00:00:00:00:00:00" {
        return Err(Error::new(Kind::Impossible, format!("{mac} is not the address of one NIC"))
            .with_field(field, "is a multicast address or zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multicast_address_is_no_nic() {
        assert_eq!(check_mac("mac", "01:00:5e:00:00:01").unwrap_err().kind(), Kind::Impossible);
        assert_eq!(check_mac("mac", "52:54:00:zz:00:01").unwrap_err().kind(), Kind::InvalidRequest);
        assert!(check_mac("mac", "52:54:00:12:34:56").is_ok());
    }
}
