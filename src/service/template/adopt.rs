//! After a restart, or after libvirt was lost: what became of work on a template that was cut off.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::make::{CONVERT_STEP, Conversion, VOLUME_STEP};
use super::{DELETE_STEP, TemplateService};
use crate::error::{Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::{Task, VolumeRef};
use crate::service::adopt::{Adopter, interrupted};
use crate::service::gate::Key;
use crate::service::operation::Tools;
use crate::service::task::{End, TaskHandle};
use crate::store::Step;

/// How often a copy that libvirt is still making is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);

impl Adopter for TemplateService {
    const KINDS: &'static [&'static str] =
        &["template.create", "template.make", "template.update", "template.delete"];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, steps: &[Step]) -> Vec<Key> {
        let mut keys: Vec<Key> =
            Uuid::try_parse(&task.subject.id).ok().map(Key::Template).into_iter().collect();
        let volumes = steps.iter().filter(|step| step.action == VOLUME_STEP).filter_map(volume_of);
        keys.extend(volumes.map(|volume| Key::Volume(volume.pool, volume.volume)));
        if let Some(Conversion { vm, told }) = converted(steps) {
            keys.push(Key::Vm(vm));
            keys.extend(told.into_iter().map(|volume| Key::Volume(volume.pool, volume.volume)));
        }
        keys
    }

    async fn judge(&self, handle: &TaskHandle, task: &Task, _: Instant) -> Result<End> {
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let name = &task.subject.name;
        let row = self.library.get(&task.subject.id);
        match (task.kind.as_str(), row) {
            ("template.make", Ok(row)) => {
                if let Some(conversion) = converted(&steps) {
                    // The template stands, so the VM has to go.
                    self.take_away(conversion).await?;
                }
                self.result(&row)
            }
            ("template.make", Err(_)) => self.judge_make(handle, name, &steps).await,
            ("template.create" | "template.update", Ok(row)) => self.result(&row),
            ("template.delete", Err(_)) => {
                let volumes = steps
                    .iter()
                    .find(|step| step.action == DELETE_STEP)
                    .and_then(|step| serde_json::from_value(step.undo.clone()).ok());
                self.delete_images(name, volumes.unwrap_or_default()).await?;
                Ok(End::Done(Value::Null))
            }
            ("template.delete", Ok(_)) => Err(interrupted(format!(
                "the deletion of the template {name:?} was cut off; it is still there"
            ))),
            (kind, _) => Err(interrupted(format!("{kind} of {name:?} was never done"))),
        }
    }
}

impl TemplateService {
    /// Removes the copies, each when libvirt has let go of it.
    async fn judge_make(&self, handle: &TaskHandle, name: &str, steps: &[Step]) -> Result<End> {
        let volumes: Vec<VolumeRef> =
            steps.iter().filter(|step| step.action == VOLUME_STEP).filter_map(volume_of).collect();
        for reference in &volumes {
            loop {
                let asked = reference.clone();
                let building = self.tools.hypervisor.run(Lane::Slow, LOOK, move |session| {
                    match volume::is_building(session, &asked.pool, &asked.volume) {
                        Err(error)
                            if matches!(
                                error.kind(),
                                Kind::VolumeNotFound | Kind::PoolNotFound | Kind::PoolInactive
                            ) =>
                        {
                            Ok(false)
                        }
                        other => other,
                    }
                });
                if !building.await? {
                    break;
                }
                handle.phase("waiting for libvirt to let go of a copy");
                tokio::time::sleep(BEAT).await;
            }
        }
        let left = self.remove_copies(volumes).await?;
        if left.is_empty() {
            return Err(interrupted(format!(
                "the template {name:?} was cut off; what had been made was undone"
            )));
        }
        Err(interrupted(format!(
            "the template {name:?} was cut off, and left: {}",
            left.join(", ")
        ))
        .with_detail("left", left))
    }
}

fn volume_of(step: &Step) -> Option<VolumeRef> {
    serde_json::from_value(step.undo.clone()).ok()
}

fn converted(steps: &[Step]) -> Option<Conversion> {
    let step = steps.iter().find(|step| step.action == CONVERT_STEP)?;
    serde_json::from_value(step.undo.clone()).ok()
}
