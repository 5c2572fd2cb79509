//! Downloads: the bytes of a volume as they lie on its pool.

use uuid::Uuid;

use super::TransferService;
use crate::error::{Error, Kind, Result};
use crate::libvirt::VolumeReader;
use crate::model::{PoolState, VolumeRef};
use crate::service::Context;
use crate::service::gate::{Claim, Hold, Key};
use crate::service::volume::{pool_key, writers};
use serde_json::json;

/// A volume that is open for reading, and held beside other readers until this is dropped.
pub struct Download {
    pub reader: VolumeReader,
    _hold: Hold,
}

impl TransferService {
    /// Opens a volume for its bytes to be read: the file or device itself, not what a guest sees.
    ///
    /// What a running VM writes to is refused, because what is read then is not of one moment; with
    /// `force` the caller takes that.
    ///
    /// # Errors
    /// 404; 409 `VOLUME_IN_USE`, `VOLUME_BUSY`, `POOL_INACTIVE`; 429 if too many are under way.
    pub async fn download(
        &self,
        ctx: &Context,
        pool: &str,
        name: &str,
        force: bool,
    ) -> Result<Download> {
        let picture = self.tools.inventory.picture();
        if picture.pool(pool)?.pool.state == PoolState::Inactive {
            return Err(Error::new(Kind::PoolInactive, format!("the pool {pool:?} is not active")));
        }
        let volume = picture.volume(pool, name)?;
        let reference = VolumeRef { pool: pool.to_owned(), volume: name.to_owned() };
        let writers: Vec<String> = writers(&picture, &volume)?
            .iter()
            .filter(|record| record.vm.state.is_active())
            .map(|record| record.vm.name.clone())
            .collect();
        if !writers.is_empty() && !force {
            return Err(Error::new(
                Kind::VolumeInUse,
                format!("{} runs and writes to {pool}/{name}", writers.join(", ")),
            )
            .with_hint("stop it first, or say force=true: what is read then is not of one moment")
            .with_detail("vms", json!(writers)));
        }
        // A read leaves no task; the holder's id is that of this request alone.
        let claim = Claim {
            task: Uuid::now_v7(),
            kind: "volume.download",
            principal: ctx.principal.to_string(),
            starts: false,
        };
        let key = Key::Volume(pool.to_owned(), name.to_owned());
        let hold = self.tools.gate.take_beside(Vec::new(), vec![key, pool_key(pool)], &claim)?;
        let reader = self.tools.hypervisor.read_volume(&reference).await?;
        Ok(Download { reader, _hold: hold })
    }
}
