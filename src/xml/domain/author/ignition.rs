//! The Ignition config of a new VM: how its guest gets at it.

use crate::xml::domain::ignition::FW_CFG_NAME;
use crate::xml::tree::Element;

use super::DomainSpec;

/// A config that lies in a volume already, or will when the VM is defined.
#[derive(Clone, Debug)]
pub struct IgnitionSpec {
    /// The version of Ignition's specification.
    pub version: String,
    pub by: IgnitionBy,
}

/// How the guest reads it.
#[derive(Clone, Debug)]
pub enum IgnitionBy {
    /// QEMU's firmware configuration device, of this file on the host.
    FwCfg(String),
    /// The disk with this target, which the specification has.
    Disk(String),
}

/// `<sysinfo>` for fw_cfg. The config itself stays out of the definition, which whoever may read it
/// would see.
pub(super) fn sysinfo(spec: &DomainSpec) -> Option<Element<'static>> {
    let IgnitionBy::FwCfg(file) = &spec.ignition.as_ref()?.by else { return None };
    let entry = Element::new("entry").with_attr("name", FW_CFG_NAME).with_attr("file", file);
    Some(Element::new("sysinfo").with_attr("type", "fwcfg").with_child(entry))
}

/// What is noted of it in Vapor's metadata.
pub(super) fn mark(spec: &DomainSpec) -> Option<Element<'static>> {
    let ignition = spec.ignition.as_ref()?;
    let target = match &ignition.by {
        IgnitionBy::FwCfg(_) => None,
        IgnitionBy::Disk(target) => Some(target),
    };
    let mark = Element::new("vapor:ignition").with_attr("version", &ignition.version);
    Some(mark.with_attr_if("target", target))
}
