//! A decision carried out: the stored definition first, then the running VM, all or nothing.

use serde_json::json;
use uuid::Uuid;

use super::super::create::own_variables;
use super::cpu::LivePin;
use super::decide::Decision;
use super::disks::Growth;
use super::nics::LiveNic;
use crate::error::Result;
use crate::libvirt::{Session, domain, volume};
use crate::xml::domain::edit::{self, DomainEdit, NicEdit};
use crate::xml::domain::{METADATA_PREFIX, METADATA_URI};

/// Changes the stored definition, then the running VM; puts everything back if one is refused.
pub(super) fn apply(
    session: &Session,
    uuid: Uuid,
    name: &str,
    persistent: bool,
    active: bool,
    decision: &Decision,
) -> Result<()> {
    // With its secrets, or redefining would lose them.
    let old = if persistent && decision.config != DomainEdit::default() {
        let old = domain::xml(session, uuid, true, true)?;
        domain::define(session, name, &edit::apply(&old, &decision.config)?)?;
        Some(old)
    } else {
        None
    };
    let mut undo: Vec<Box<dyn FnOnce() -> Result<()> + '_>> = Vec::new();
    let variables = match decision.config.hardware.efi {
        // libvirt names the file of the firmware's variables when it first sees the definition.
        Some(_) if old.is_some() => own_variables(session, uuid, name),
        _ => Ok(()),
    };
    let result = variables
        .and_then(|()| apply_live(session, uuid, decision, &mut undo))
        .and_then(|()| rename(session, uuid, name, decision, &mut undo))
        .and_then(|()| grow(session, uuid, active, &decision.growths));
    let Err(error) = result else { return Ok(()) };
    for step in undo.into_iter().rev() {
        if let Err(failed) = step() {
            tracing::warn!(vm = name, error = ?failed, "a live change could not be put back");
        }
    }
    if let Some(old) = old
        && let Err(failed) = domain::define(session, name, &old)
    {
        tracing::error!(vm = name, error = ?failed, "the old definition could not be put back");
        return Err(error.with_detail("not_put_back", "definition"));
    }
    Err(error)
}

fn apply_live<'a>(
    session: &'a Session,
    uuid: Uuid,
    decision: &Decision,
    undo: &mut Vec<Box<dyn FnOnce() -> Result<()> + 'a>>,
) -> Result<()> {
    let live = decision.live.clone();
    if let Some((new, old)) = live.memory {
        domain::set_memory(session, uuid, new * 1024, true, false)?;
        undo.push(Box::new(move || domain::set_memory(session, uuid, old * 1024, true, false)));
    }
    if let Some((new, old)) = live.vcpus {
        domain::set_vcpus(session, uuid, new, true, false)?;
        undo.push(Box::new(move || domain::set_vcpus(session, uuid, old, true, false)));
    }
    if let Some((new, old)) = live.title {
        domain::set_title(session, uuid, &new, true, false)?;
        undo.push(Box::new(move || domain::set_title(session, uuid, &old, true, false)));
    }
    if let Some((new, old)) = live.description {
        domain::set_description(session, uuid, &new, true, false)?;
        undo.push(Box::new(move || domain::set_description(session, uuid, &old, true, false)));
    }
    if let Some((new, old)) = live.labels {
        let set = move |element: &str| {
            domain::set_metadata(
                session,
                uuid,
                METADATA_URI,
                METADATA_PREFIX,
                Some(element),
                true,
                false,
            )
        };
        set(&new)?;
        undo.push(Box::new(move || set(&old)));
    }
    for LivePin { vcpu, new, old } in live.pins {
        domain::pin_vcpu(session, uuid, vcpu, &new)?;
        undo.push(Box::new(move || domain::pin_vcpu(session, uuid, vcpu, &old)));
    }
    if !live.nics.is_empty() {
        let running = domain::xml(session, uuid, false, true)?;
        for LiveNic { mac, edit } in &live.nics {
            let new = edit::nic_alone(&running, mac, edit)?;
            let old = edit::nic_alone(&running, mac, &NicEdit::default())?;
            domain::update_device(session, uuid, &new, true, false)?;
            undo.push(Box::new(move || domain::update_device(session, uuid, &old, true, false)));
        }
    }
    if let Some(autostart) = decision.autostart {
        domain::set_autostart(session, uuid, autostart)?;
        undo.push(Box::new(move || domain::set_autostart(session, uuid, !autostart)));
    }
    Ok(())
}

fn rename<'a>(
    session: &'a Session,
    uuid: Uuid,
    old: &'a str,
    decision: &Decision,
    undo: &mut Vec<Box<dyn FnOnce() -> Result<()> + 'a>>,
) -> Result<()> {
    let Some(new) = &decision.rename else { return Ok(()) };
    domain::rename(session, uuid, new)?;
    undo.push(Box::new(move || domain::rename(session, uuid, old)));
    Ok(())
}

/// Grows disks, the last of all changes: the first refusal of several leaves the earlier ones
/// grown, which is said, because to shrink what a guest has seen would lose what it wrote there.
fn grow(session: &Session, uuid: Uuid, active: bool, growths: &[Growth]) -> Result<()> {
    let mut grown: Vec<&str> = Vec::new();
    for growth in growths {
        let done = if active {
            domain::resize_disk(session, uuid, &growth.target, growth.to)
        } else {
            volume::resize(session, &growth.pool, &growth.volume, growth.to, false)
        };
        match done {
            Ok(()) => grown.push(&growth.target),
            Err(error) if grown.is_empty() => return Err(error),
            Err(error) => {
                let kept = grown.join(", ");
                return Err(error.with_detail("grown", json!(grown)).with_hint(format!(
                    "every other change has been put back, but {kept} stays grown: shrinking it \
                     could lose what the guest has written there"
                )));
            }
        }
    }
    Ok(())
}
