//! The NICs of a new domain XML.

use super::boot;
use crate::model::NicSourceType;
use crate::model::vm_request::{Bandwidth, DirectMode};
use crate::xml::tree::Element;

/// A NIC to be.
#[derive(Clone, Debug, Default)]
pub struct NicSpec {
    pub source_type: NicSourceType,
    /// The network, bridge or device; absent for `user`.
    pub source: Option<String>,
    pub model: String,
    /// Chosen by libvirt if absent.
    pub mac: Option<String>,
    pub boot_order: Option<u32>,
    pub link_up: bool,
    /// For `direct`; `bridge` if absent.
    pub mode: Option<DirectMode>,
    pub vlan: Option<u16>,
    pub inbound: Option<Bandwidth>,
    pub outbound: Option<Bandwidth>,
    pub isolated: bool,
}

pub(super) fn nic(spec: &NicSpec) -> Element<'static> {
    let (r#type, attribute) = match spec.source_type {
        NicSourceType::Network => ("network", Some("network")),
        NicSourceType::Bridge => ("bridge", Some("bridge")),
        NicSourceType::Direct => ("direct", Some("dev")),
        NicSourceType::User => ("user", None),
    };
    let source = attribute.zip(spec.source.as_ref()).map(|(attribute, name)| {
        let mode = spec.mode.unwrap_or(DirectMode::Bridge).as_str();
        let mode = (spec.source_type == NicSourceType::Direct).then_some(mode);
        Element::new("source").with_attr(attribute, name).with_attr_if("mode", mode)
    });
    Element::new("interface")
        .with_attr("type", r#type)
        .with_children(spec.mac.as_ref().map(|mac| Element::new("mac").with_attr("address", mac)))
        .with_children(source)
        .with_child(Element::new("model").with_attr("type", &spec.model))
        .with_children((!spec.link_up).then(|| Element::new("link").with_attr("state", "down")))
        .with_children(bandwidth(spec))
        .with_children(spec.vlan.map(|tag| {
            Element::new("vlan").with_child(Element::new("tag").with_attr("id", tag.to_string()))
        }))
        .with_children(spec.isolated.then(|| Element::new("port").with_attr("isolated", "yes")))
        .with_children(boot(spec.boot_order))
}

/// The limit of one direction, `inbound` or `outbound`.
pub(in crate::xml::domain) fn limit(side: &'static str, limit: Bandwidth) -> Element<'static> {
    let Bandwidth { average, peak, burst } = limit;
    Element::new(side)
        .with_attr("average", average.to_string())
        .with_attr_if("peak", peak.map(|peak| peak.to_string()))
        .with_attr_if("burst", burst.map(|burst| burst.to_string()))
}

fn bandwidth(spec: &NicSpec) -> Option<Element<'static>> {
    let side = |name, wanted: Option<Bandwidth>| wanted.map(|wanted| limit(name, wanted));
    (spec.inbound.is_some() || spec.outbound.is_some()).then(|| {
        Element::new("bandwidth")
            .with_children(side("inbound", spec.inbound))
            .with_children(side("outbound", spec.outbound))
    })
}
