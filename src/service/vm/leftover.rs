//! Volumes that an operation which was cut off has left behind.
//!
//! The journal has their names, and the gate holds these before a client is served; but other hands,
//! such as virsh's, were free while no daemon ran. What somebody uses by now stays.

use super::VmService;
use crate::error::{Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::VolumeRef;
use crate::service::operation::SLOW_CALL;
use crate::service::volume::refuse_used_but_by;

/// What could not be removed, each with its kind of thing in front.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Because somebody uses it by now.
    pub used: Vec<String>,
    /// For another reason, which may pass.
    pub stuck: Vec<String>,
}

impl Left {
    /// All of it.
    pub(crate) fn all(self) -> Vec<String> {
        [self.used, self.stuck].concat()
    }
}

impl VmService {
    /// Removes each of these volumes that nobody uses; one that is gone already is as good.
    ///
    /// # Errors
    /// `LibvirtUnavailable`, and what storage cannot be read with.
    pub(crate) async fn remove_unused(&self, volumes: Vec<VolumeRef>) -> Result<Left> {
        if volumes.is_empty() {
            return Ok(Left::default());
        }
        let (unused, used) = self.split_used(volumes, |_| false).await?;
        let stuck = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let stay = volume::delete_all(session, unused.iter())?;
                Ok(stay.iter().map(named).collect())
            })
            .await?;
        if let Err(error) = self.tools.inventory.refresh_storage().await {
            tracing::debug!(error = ?error, "the volumes will be seen with the next refresh");
        }
        Ok(Left { used, stuck })
    }

    /// Tells the volumes that nobody uses, but for these VMs, from the others, which are named.
    pub(super) async fn split_used(
        &self,
        volumes: Vec<VolumeRef>,
        but_by: impl Fn(&str) -> bool,
    ) -> Result<(Vec<VolumeRef>, Vec<String>)> {
        self.tools.inventory.refresh_storage().await?;
        let picture = self.tools.inventory.picture();
        let (mut unused, mut used) = (Vec::new(), Vec::new());
        for reference in volumes {
            match picture.volume(&reference.pool, &reference.volume) {
                Ok(found) => {
                    if let Err(error) = refuse_used_but_by(&found, &but_by) {
                        tracing::warn!(volume = %reference, error = ?error, "it stays");
                        used.push(named(&reference));
                        continue;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        Kind::VolumeNotFound | Kind::PoolNotFound | Kind::PoolInactive
                    ) => {}
                Err(error) => return Err(error),
            }
            unused.push(reference);
        }
        Ok((unused, used))
    }
}

fn named(volume: &VolumeRef) -> String {
    format!("the volume {volume}")
}
