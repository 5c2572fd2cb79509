//! NICs of an update: which one is meant, and when its change takes hold.

use std::collections::HashSet;

use serde_json::json;

use super::super::draft::check::clash;
use super::super::draft::nics::check_options;
use super::decide::{Decision, Engine, unknown};
use crate::error::Result;
use crate::model::vm_request::Bandwidth;
use crate::model::vm_update::{LimitChange, UpdateNic};
use crate::model::{Nic, NicRequest, NicSourceType};
use crate::service::inventory::Picture;
use crate::xml::domain::edit::NicEdit;

/// A NIC that changes while the VM runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveNic {
    pub(super) mac: String,
    pub(super) edit: NicEdit,
}

/// Decides about the NICs of a request, each named by its MAC.
///
/// # Errors
/// 422 for a MAC that the VM has not, or that is named twice, and for a source that contradicts its
/// type; 404 for a network that is not there.
pub(super) fn nics(
    engine: &mut Engine<'_>,
    picture: &Picture,
    requests: &[UpdateNic],
    decision: &mut Decision,
) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let mac = request.mac.to_ascii_lowercase();
        let at = |part: &str| format!("networks[{index}].{part}");
        if !seen.insert(mac.clone()) {
            return Err(clash(at("mac"), format!("{mac} is named twice")));
        }
        let find = |nics: &[Nic]| nics.iter().find(|nic| nic.mac == mac).cloned();
        let (now, next) = (find(&engine.now.networks), find(&engine.next.networks));
        let Some(stored) = next.as_ref().or(now.as_ref()) else {
            let macs = engine.now.networks.iter().map(|nic| nic.mac.as_str());
            return Err(unknown(at("mac"), "NIC", &mac, macs));
        };
        let running = now.as_ref().filter(|_| engine.active);
        let (mut edit, mut live) = (NicEdit::default(), NicEdit::default());
        let field = |part: &str| format!("networks.{mac}.{part}");
        if let Some(up) = request.link_up {
            let differs = running.is_some_and(|nic| nic.link_up != up);
            if differs || stored.link_up != up {
                let from = running.unwrap_or(stored).link_up;
                engine.note(&field("link_up"), json!(from), json!(up), None);
                edit.link_up = Some(up);
                live.link_up = differs.then_some(up);
            }
        }
        if request.r#type.is_some() || request.source.is_some() {
            let wanted = wanted_source(picture, request, stored, &at("source"))?;
            let is = |nic: &Nic| {
                nic.source.r#type == word(wanted.0)
                    && (wanted.1.is_none() || nic.source.name == wanted.1)
            };
            let why = running.and_then(|nic| why_not_live(picture, nic, &wanted));
            let differs = running.is_some_and(|nic| !is(nic)) && why.is_none();
            if differs || !is(stored) {
                let to = json!({"type": word(wanted.0), "name": wanted.1});
                let from = json!(running.unwrap_or(stored).source);
                engine.note(&field("source"), from, to, why.as_deref());
                live.source = differs.then(|| wanted.clone());
                edit.source = Some(wanted);
            }
        }
        if let Some(model) = request.model.as_ref().map(ToString::to_string)
            && stored.model.as_deref() != Some(model.as_str())
        {
            let why = "a NIC's model is fixed while the VM runs";
            engine.note(&field("model"), json!(stored.model), json!(model), Some(why));
            edit.model = Some(model);
        }
        check(picture, request, stored, &at)?;
        limits(engine, request, stored, running, (&mut edit, &mut live));
        fixed(engine, request, stored, &mut edit);
        if live != NicEdit::default() {
            decision.live.nics.push(LiveNic { mac: mac.clone(), edit: live });
        }
        if edit != NicEdit::default() {
            decision.config.nics.insert(mac, edit);
        }
    }
    Ok(())
}

/// What of the options the NIC's type, as it is or will be, cannot have.
fn check(
    picture: &Picture,
    request: &UpdateNic,
    stored: &Nic,
    at: &dyn Fn(&str) -> String,
) -> Result<()> {
    let moves = request.r#type.is_some();
    let limit = |wanted: Option<LimitChange>, present: Option<Bandwidth>| match wanted {
        Some(wanted) => wanted.limit(),
        None => present.filter(|_| moves),
    };
    for (name, wanted) in [("inbound", request.inbound), ("outbound", request.outbound)] {
        if wanted
            .is_some_and(|wanted| wanted.average == 0 && wanted.peak.or(wanted.burst).is_some())
        {
            return Err(clash(
                at(name),
                "an average of 0 takes the limit away, with all its parts",
            ));
        }
    }
    let wanted = NicRequest {
        r#type: request.r#type.unwrap_or_else(|| present_type(stored)),
        mode: request.mode.or(stored.mode.filter(|_| moves)),
        vlan: request.vlan.or(stored.vlan.filter(|_| moves)).filter(|tag| *tag > 0),
        inbound: limit(request.inbound, stored.inbound),
        outbound: limit(request.outbound, stored.outbound),
        isolated: request.isolated.or(stored.isolated.filter(|_| moves)).unwrap_or(false),
        ..NicRequest::default()
    };
    let source = request.source.as_ref().map(ToString::to_string);
    check_options(at, &wanted, source.as_deref().or(stored.source.name.as_deref()), picture)
}

/// What libvirt changes while the VM runs (`virDomainUpdateDeviceFlags`): limits and isolation.
fn limits(
    engine: &mut Engine<'_>,
    request: &UpdateNic,
    stored: &Nic,
    running: Option<&Nic>,
    (edit, live): (&mut NicEdit, &mut NicEdit),
) {
    let mut side = |part: &str, wanted: Option<LimitChange>, of: fn(&Nic) -> Option<Bandwidth>| {
        let wanted = wanted?.limit();
        let differs = running.is_some_and(|nic| of(nic) != wanted);
        if !differs && of(stored) == wanted {
            return None;
        }
        let from = of(running.unwrap_or(stored));
        let field = format!("networks.{}.{part}", stored.mac);
        engine.note(&field, json!(from), json!(wanted), None);
        Some((wanted, differs))
    };
    let inbound = side("inbound", request.inbound, |nic| nic.inbound);
    let outbound = side("outbound", request.outbound, |nic| nic.outbound);
    edit.inbound = inbound.map(|(wanted, _)| wanted);
    edit.outbound = outbound.map(|(wanted, _)| wanted);
    live.inbound = inbound.filter(|(_, differs)| *differs).map(|(wanted, _)| wanted);
    live.outbound = outbound.filter(|(_, differs)| *differs).map(|(wanted, _)| wanted);
    let Some(isolated) = request.isolated else { return };
    let is = |nic: &Nic| nic.isolated.unwrap_or(false);
    let differs = running.is_some_and(|nic| is(nic) != isolated);
    if differs || is(stored) != isolated {
        let from = is(running.unwrap_or(stored));
        let field = format!("networks.{}.isolated", stored.mac);
        engine.note(&field, json!(from), json!(isolated), None);
        edit.isolated = Some(isolated);
        live.isolated = differs.then_some(isolated);
    }
}

/// What a NIC keeps while the VM runs.
fn fixed(engine: &mut Engine<'_>, request: &UpdateNic, stored: &Nic, edit: &mut NicEdit) {
    let field = |part: &str| format!("networks.{}.{part}", stored.mac);
    let tag = request.vlan.map(|tag| (tag > 0).then_some(tag));
    if let Some(tag) = tag.filter(|tag| *tag != stored.vlan) {
        let why = "a NIC keeps its VLAN while the VM runs";
        engine.note(&field("vlan"), json!(stored.vlan), json!(tag), Some(why));
        edit.vlan = Some(tag);
    }
    if let Some(mode) = request.mode.filter(|mode| Some(*mode) != stored.mode) {
        let why = "a direct NIC is plugged in when the VM starts";
        engine.note(&field("mode"), json!(stored.mode), json!(mode), Some(why));
        edit.mode = Some(mode);
    }
    edit.boot_order =
        engine.boot_order(&field("boot_order"), stored.boot_order, request.boot_order);
}

fn present_type(nic: &Nic) -> NicSourceType {
    match nic.source.r#type.as_str() {
        "bridge" => NicSourceType::Bridge,
        "direct" => NicSourceType::Direct,
        "user" => NicSourceType::User,
        _ => NicSourceType::Network,
    }
}

const fn word(r#type: NicSourceType) -> &'static str {
    match r#type {
        NicSourceType::Network => "network",
        NicSourceType::Bridge => "bridge",
        NicSourceType::Direct => "direct",
        NicSourceType::User => "user",
    }
}

/// What the NIC is to be plugged into; the present type if the request names none.
fn wanted_source(
    picture: &Picture,
    request: &UpdateNic,
    stored: &Nic,
    field: &str,
) -> Result<(NicSourceType, Option<String>)> {
    let r#type = request.r#type.unwrap_or_else(|| present_type(stored));
    let name = request.source.as_ref().map(ToString::to_string);
    match (r#type, &name) {
        (NicSourceType::User, Some(_)) => Err(clash(field, "must be absent for a user NIC")),
        (NicSourceType::User, None) => Ok((r#type, None)),
        (NicSourceType::Network, Some(network)) => {
            picture.network(network)?;
            Ok((r#type, name))
        }
        (_, Some(_)) => Ok((r#type, name)),
        (_, None) => Err(clash(field, format!("is required for type {}", word(r#type)))),
    }
}

/// Why a running VM's NIC cannot be plugged over. libvirt moves a tap device from one bridge to
/// another (`virDomainUpdateDeviceFlags`), and nothing else.
fn why_not_live(
    picture: &Picture,
    running: &Nic,
    (r#type, name): &(NicSourceType, Option<String>),
) -> Option<String> {
    let on_bridge = |network: Option<&str>| -> std::result::Result<(), String> {
        let Some(network) = network.and_then(|name| picture.network(name).ok()) else {
            return Ok(());
        };
        let name = &network.name;
        if !network.active {
            return Err(format!("the network {name:?} is not active"));
        }
        if network.bridge.is_none() {
            return Err(format!("the network {name:?} has no bridge to plug over to"));
        }
        Ok(())
    };
    let fixed = |kind: &str| Some(format!("a {kind} NIC is plugged in when the VM starts"));
    match running.source.r#type.as_str() {
        "network" | "bridge" => {}
        kind => return fixed(kind),
    }
    match r#type {
        NicSourceType::Bridge => {}
        NicSourceType::Network => {
            if let Err(why) = on_bridge(name.as_deref()) {
                return Some(why);
            }
        }
        NicSourceType::Direct | NicSourceType::User => return fixed(word(*r#type)),
    }
    let network = (running.source.r#type == "network").then_some(running.source.name.as_deref());
    on_bridge(network.flatten()).err()
}
