//! Definitions: reading, storing, removing, and the metadata in them.

use uuid::Uuid;
use virt::sys;

use super::super::error::What;
use super::super::session::{Session, without_nul};
use super::{impact, refuse_hung, target, with};
use crate::error::Result;

/// The libvirt that knows `VIR_DOMAIN_UNDEFINE_TPM`.
const UNDEFINE_TPM_SINCE: u32 = 8_009_000;

/// What goes with a domain's definition; libvirt refuses to undefine a domain that has one of these
/// and whose flag is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndefineFlags {
    pub saved_state: bool,
    pub snapshots_metadata: bool,
    pub checkpoints_metadata: bool,
    /// Remove the firmware's variables too; kept if not set.
    pub nvram: bool,
    /// Remove the state of its emulated TPM too; kept if not set. libvirt before 8.9 has no word for
    /// it and removes the state unless the definition says that it is persistent.
    pub tpm: bool,
}

/// The domain's XML: live or stored (`inactive`), with or without secrets (`secure`).
pub fn xml(session: &Session, uuid: Uuid, inactive: bool, secure: bool) -> Result<String> {
    let inactive = if inactive { sys::VIR_DOMAIN_XML_INACTIVE } else { 0 };
    let secure = if secure { sys::VIR_DOMAIN_XML_SECURE } else { 0 };
    with(session, uuid, "read the XML of", |domain| domain.xml_desc(inactive | secure))
}

/// Stores a definition, new or changed; libvirt checks it against its schema where it has one.
/// `name` is for messages.
///
/// # Errors
/// `InvalidDefinition`, `VmAlreadyExists`, `NotSupported` (a configuration this host cannot have).
pub fn define(session: &Session, name: &str, xml: &str) -> Result<Uuid> {
    without_nul("xml", xml)?;
    let what = What::Vm(name);
    // The test driver's own documents do not all pass the schema.
    let flags = if session.is_test_driver() { 0 } else { sys::VIR_DOMAIN_DEFINE_VALIDATE };
    let domain = session
        .connect()
        .define_domain_xml_flags(xml, flags)
        .map_err(session.failed("define", what))?;
    domain.uuid().map_err(session.failed("define", what))
}

/// Removes the definition. A running domain goes on as a transient one.
///
/// # Errors
/// `VmWrongState` if the domain has something that the flags do not cover.
pub fn undefine(session: &Session, uuid: Uuid, flags: UndefineFlags) -> Result<()> {
    let mut bits = 0;
    if flags.saved_state {
        bits |= sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE;
    }
    if flags.snapshots_metadata {
        bits |= sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
    }
    // Drivers without checkpoints refuse even the question.
    if flags.checkpoints_metadata && session.is_qemu() {
        bits |= sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
    }
    if session.is_qemu() {
        // A domain with firmware variables is refused if neither is said; other drivers refuse both.
        bits |= if flags.nvram {
            sys::VIR_DOMAIN_UNDEFINE_NVRAM
        } else {
            sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
        };
        if session.libvirt_version() >= UNDEFINE_TPM_SINCE {
            bits |= if flags.tpm {
                sys::VIR_DOMAIN_UNDEFINE_TPM
            } else {
                sys::VIR_DOMAIN_UNDEFINE_KEEP_TPM
            };
        }
    }
    with(session, uuid, "undefine", |domain| domain.undefine_flags(bits))
}

/// Gives a stopped domain another name. `virDomainRename`; its UUID, firmware variables and TPM
/// state, which are found by path and by UUID, stay.
///
/// # Errors
/// `VmAlreadyExists` if another has the name; `VmWrongState` or `LibvirtRefused` for a domain that
/// runs, or has snapshots or a saved state.
pub fn rename(session: &Session, uuid: Uuid, name: &str) -> Result<()> {
    without_nul("name", name)?;
    with(session, uuid, "rename", |domain| domain.rename(name, 0))
}

/// Whether the domain starts with the host.
pub fn set_autostart(session: &Session, uuid: Uuid, autostart: bool) -> Result<()> {
    with(session, uuid, "set the autostart of", |domain| domain.set_autostart(autostart))
}

/// Sets the description; an empty one removes it.
pub fn set_description(
    session: &Session,
    uuid: Uuid,
    text: &str,
    live: bool,
    config: bool,
) -> Result<()> {
    set_text(session, uuid, sys::VIR_DOMAIN_METADATA_DESCRIPTION, text, impact(live, config))
}

/// Sets the title, one line; an empty one removes it.
pub fn set_title(
    session: &Session,
    uuid: Uuid,
    text: &str,
    live: bool,
    config: bool,
) -> Result<()> {
    set_text(session, uuid, sys::VIR_DOMAIN_METADATA_TITLE, text, impact(live, config))
}

fn set_text(
    session: &Session,
    uuid: Uuid,
    kind: sys::virDomainMetadataType,
    text: &str,
    flags: u32,
) -> Result<()> {
    without_nul("text", text)?;
    let text = if text.is_empty() { None } else { Some(text) };
    with(session, uuid, "describe", |domain| {
        domain.set_metadata(kind as i32, text, None, None, flags)
    })
}

/// Sets the element of one namespace in the domain's `<metadata>`; `None` removes it. `element` is
/// the element itself, `prefix` the one libvirt shall use for it.
pub fn set_metadata(
    session: &Session,
    uuid: Uuid,
    namespace: &str,
    prefix: &str,
    element: Option<&str>,
    live: bool,
    config: bool,
) -> Result<()> {
    for text in [Some(namespace), Some(prefix), element].into_iter().flatten() {
        without_nul("metadata", text)?;
    }
    let target = target(session, uuid)?;
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    // libvirt wants the prefix only together with an element.
    let prefix = element.map(|_| prefix);
    let flags = impact(live, config);
    refuse_hung(session, &target.domain, &target.name, "set the metadata of")?;
    match target.domain.set_metadata(kind, element, prefix, Some(namespace), flags) {
        // Nothing to remove is what was asked for.
        Err(error)
            if element.is_none() && error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN_METADATA =>
        {
            Ok(())
        }
        other => other.map_err(session.failed("set the metadata of", target.what())),
    }
}
