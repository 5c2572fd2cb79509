//! Starting, stopping and refreshing a pool.

use serde_json::json;

use super::{PoolService, check_if_match, pool_key, running_users, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, pool};
use crate::model::{Pool, PoolState};
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::{Picture, PoolRecord};
use crate::service::operation::plan;
use crate::service::task::{End, Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};

/// What is done to a pool as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    Start,
    Stop {
        /// Also while running VMs use its volumes.
        force: bool,
    },
    Refresh,
}

impl Power {
    const fn kind(self) -> &'static str {
        match self {
            Power::Start => "pool.start",
            Power::Stop { .. } => "pool.stop",
            Power::Refresh => "pool.refresh",
        }
    }

    fn effect(self, pool: &Pool) -> &'static str {
        match self {
            Power::Start => "makes its volumes available",
            Power::Stop { .. } if pool.persistent => {
                "makes its volumes unavailable; what uses them already goes on"
            }
            Power::Stop { .. } => "makes its volumes unavailable, and forgets the transient pool",
            Power::Refresh => "looks at its storage anew; if that is gone, the pool stops",
        }
    }

    fn act(self, session: &Session, name: &str) -> Result<()> {
        match self {
            Power::Start => pool::start(session, name),
            Power::Stop { .. } => pool::stop(session, name),
            Power::Refresh => pool::refresh(session, name),
        }
    }
}

impl PoolService {
    /// Makes an inactive pool's volumes available. `virStoragePoolCreate`.
    ///
    /// # Errors
    /// 404; 409 if it is active; what libvirt fails with, which the pool then shows as its
    /// `problem`.
    pub async fn start(&self, ctx: Context, name: &str) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.power_once(&ctx, name, Power::Start)).await
    }

    /// Makes an active pool's volumes unavailable to libvirt. `virStoragePoolDestroy`.
    ///
    /// # Errors
    /// 404; 409 if it is inactive, or running VMs use its volumes and it is not forced.
    pub async fn stop(&self, ctx: Context, name: &str, force: bool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.power_once(&ctx, name, Power::Stop { force })).await
    }

    /// Makes libvirt look at the pool's storage anew. `virStoragePoolRefresh`.
    ///
    /// # Errors
    /// 404; 409 if it is inactive; what libvirt fails with: then the pool is inactive, and shows it
    /// as its `problem`.
    pub async fn refresh(&self, ctx: Context, name: &str) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.power_once(&ctx, name, Power::Refresh)).await
    }

    async fn power_once(&self, ctx: &Context, name: &str, power: Power) -> Result<Outcome> {
        let record = self.get(name)?;
        check_if_match(ctx, &record)?;
        let subject = subject(&record.pool);
        let key = pool_key(name);
        if ctx.dry_run {
            let blocked = self
                .may(name, power)
                .and_then(|()| self.tools.gate.would_take(std::slice::from_ref(&key), &[]));
            let effect = power.effect(&record.pool).to_owned();
            return Ok(plan(power.kind(), subject, ("", ""), vec![effect], blocked));
        }
        self.may(name, power)?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim(power.kind(), ctx);
        let hold = self.tools.gate.take(vec![key], &claim)?;
        self.may(name, power)?;
        let pool = self.get(name)?.pool.clone();
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                match service.power(&pool, power).await {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    ended => ended,
                }
            })
            .await
    }

    /// Does it, and returns the pool as it is then.
    pub(super) async fn power(&self, pool: &Pool, power: Power) -> Result<End> {
        let name = pool.name.clone();
        self.probe(pool, move |session| power.act(session, &name)).await?;
        if power == (Power::Refresh) || pool.persistent {
            return self.settled(&pool.name);
        }
        // A transient pool is gone with its stop: as it was, for the last time.
        let gone = Pool { state: PoolState::Inactive, ..pool.clone() };
        Ok(End::Done(serde_json::to_value(gone).map_err(Error::internal)?))
    }

    fn may(&self, name: &str, power: Power) -> Result<()> {
        let picture = self.tools.inventory.picture();
        let record = picture.pool(name)?;
        let active = record.pool.state.is_active();
        match power {
            Power::Start if active => {
                Err(Error::new(Kind::PoolActive, format!("the pool {name:?} is active already"))
                    .with_hint("nothing needs to be done"))
            }
            Power::Stop { .. } if !active => {
                Err(inactive(name).with_hint("nothing needs to be done"))
            }
            Power::Refresh if !active => Err(inactive(name)),
            Power::Stop { force: false } => unused(&picture, &record),
            Power::Start | Power::Stop { .. } | Power::Refresh => Ok(()),
        }
    }
}

fn inactive(name: &str) -> Error {
    Error::new(Kind::PoolInactive, format!("the pool {name:?} is not active"))
}

/// 409 with the VMs that run on the pool's volumes.
fn unused(picture: &Picture, record: &PoolRecord) -> Result<()> {
    let (name, vms) = (&record.pool.name, running_users(picture, record));
    if vms.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::PoolInUse,
        format!("running VMs use volumes of the pool {name:?}: {}", vms.join(", ")),
    )
    .with_detail("vms", json!(vms)))
}
