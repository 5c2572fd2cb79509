//! Changing a pool: its autostart at any time, what it stands on while it is inactive.

use serde_json::{Value, json};
use std::time::Duration;

use super::{PoolService, check, check_if_match, intend, pool_key, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::pool::BuildMode;
use crate::libvirt::{Lane, Session, pool};
use crate::model::plan::Change;
use crate::model::{Effect, Plan, Pool, PoolType, UpdatePool};
use crate::service::adopt::judge_after_loss;
use crate::service::operation::blockers;
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml;

/// The step that keeps the request, by which a restarted daemon judges whether it was done.
pub(super) const UPDATE_STEP: &str = "update";

/// How long reading a definition may take.
const READ: Duration = Duration::from_secs(10);

/// What an update does, decided.
#[derive(Clone, Debug)]
pub(super) struct Decision {
    changes: Vec<Change>,
    autostart: Option<bool>,
    /// The definition before and after, where it changes.
    definition: Option<(String, String)>,
    /// Whether the folder is to be made, or its permissions set.
    build: bool,
}

impl PoolService {
    /// Changes what the request names and leaves the rest. `virStoragePoolSetAutostart`,
    /// `virStoragePoolDefineXML`.
    ///
    /// # Errors
    /// 404; 409 for a change that needs an inactive pool, or
    /// storage that is another pool's; 412; 422 for what the type does not take; what libvirt refuses with, and then the pool is as
    /// it was.
    pub async fn update(&self, ctx: Context, name: &str, request: UpdatePool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.update_once(&ctx, name, request)).await
    }

    async fn update_once(&self, ctx: &Context, name: &str, request: UpdatePool) -> Result<Outcome> {
        let record = self.get(name)?;
        check_if_match(ctx, &record)?;
        let subject = subject(&record.pool);
        let key = pool_key(name);
        if ctx.dry_run {
            let decision = self.decide(&record.pool, &request).await?;
            let blocked = possible(&record.pool, &decision)
                .and_then(|()| self.tools.gate.would_take(std::slice::from_ref(&key), &[]));
            let (old, new) = decision.definition.unwrap_or_default();
            return Ok(Outcome::Planned(Box::new(Plan {
                changes: decision.changes,
                xml_diff: xml::diff::unified(&old, &new),
                blockers: blockers(blocked),
                ..Plan::of("pool.update", subject)
            })));
        }
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("pool.update", ctx);
        let hold = self.tools.gate.take(vec![key], &claim)?;
        // Decided under the hold, on what is the case now: no event tells of another's autostart.
        self.tools.inventory.refresh_pool(name).await?;
        let record = self.get(name)?;
        check_if_match(ctx, &record)?;
        let decision = self.decide(&record.pool, &request).await?;
        possible(&record.pool, &decision)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let name = name.to_owned();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                intend(&task, UPDATE_STEP, &request).await?;
                let in_closure = name.clone();
                let done =
                    service.act(&name, move |session| apply(session, &in_closure, &decision)).await;
                match done {
                    Ok(()) => service.settled(&name),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    /// The definition that the next start takes.
    pub(super) async fn definition(&self, name: &str) -> Result<String> {
        let name = name.to_owned();
        self.tools
            .hypervisor
            .run(Lane::Quick, READ, move |session| pool::definition(session, &name))
            .await
    }

    pub(super) async fn decide(&self, pool: &Pool, request: &UpdatePool) -> Result<Decision> {
        let mut decision =
            Decision { changes: Vec::new(), autostart: None, definition: None, build: false };
        if let Some(wanted) = request.autostart.filter(|wanted| *wanted != pool.autostart) {
            let (effect, reason) = match pool.persistent {
                true => (Effect::Live, None),
                false => (Effect::Impossible, Some("a transient pool cannot start with the host")),
            };
            decision.changes.push(Change {
                field: "autostart".to_owned(),
                from: json!(pool.autostart),
                to: json!(wanted),
                effect,
                reason: reason.map(str::to_owned),
            });
            decision.autostart = Some(wanted);
        }
        let UpdatePool { source, target, features, .. } = request;
        if source.is_none() && target.is_none() && features.is_none() {
            return Ok(decision);
        }
        let old = self.definition(&pool.name).await?;
        let new = xml::pool::edit_pool(&old, source.as_ref(), target.as_ref(), features.as_ref())?;
        let (before, after) = (xml::pool::parse_pool(&old)?, xml::pool::parse_pool(&new)?);
        let r#type = PoolType::parse(&pool.r#type).ok_or_else(|| {
            Error::new(
                Kind::NotSupported,
                format!("the pool {:?} is of type {}, unknown to Vapor", pool.name, pool.r#type),
            )
        })?;
        let mut changed = fields("source", &json!(before.source), &json!(after.source));
        changed.extend(fields("target", &json!(before.target), &json!(after.target)));
        changed.extend(fields("features", &json!(before.features), &json!(after.features)));
        if changed.is_empty() {
            return Ok(decision);
        }
        check::check(r#type, &after.source, &after.target)?;
        if let Some(path) = &after.target.path
            && after.target.path != before.target.path
        {
            check::apart(&self.tools.inventory.picture(), &pool.name, r#type, path)?;
        }
        let active = pool.state.is_active();
        decision.changes.extend(changed.into_iter().map(|(field, from, to)| Change {
            field,
            from,
            to,
            effect: if active { Effect::Impossible } else { Effect::Live },
            reason: active.then(|| "the pool is active".to_owned()),
        }));
        decision.build = check::has_folder(&pool.r#type) && before.target != after.target;
        decision.definition = Some((old, new));
        Ok(decision)
    }
}

/// The members that differ, by their paths.
fn fields(prefix: &str, before: &Value, after: &Value) -> Vec<(String, Value, Value)> {
    if before == after {
        return Vec::new();
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) => new
            .iter()
            .flat_map(|(key, value)| {
                let known = old.get(key).unwrap_or(&Value::Null);
                fields(&format!("{prefix}.{key}"), known, value)
            })
            .collect(),
        _ => vec![(prefix.to_owned(), before.clone(), after.clone())],
    }
}

/// Whether every change can be made now.
fn possible(pool: &Pool, decision: &Decision) -> Result<()> {
    let mut wrong = decision.changes.iter().filter(|change| change.effect == Effect::Impossible);
    let Some(first) = wrong.next() else { return Ok(()) };
    let reason = |change: &Change| change.reason.clone().unwrap_or_default();
    let kind = if first.field == "autostart" { Kind::Impossible } else { Kind::PoolActive };
    let error = Error::new(
        kind,
        format!("{} of the pool {:?} cannot change: {}", first.field, pool.name, reason(first)),
    )
    .with_field(&first.field, reason(first));
    Err(wrong.fold(error, |error, change| error.with_field(&change.field, reason(change))))
}

/// Changes the definition, then the folder and the autostart; puts the definition back if one is
/// refused.
fn apply(session: &Session, name: &str, decision: &Decision) -> Result<()> {
    if let Some((_, new)) = &decision.definition {
        pool::define(session, name, new)?;
    }
    let result = (|| {
        if decision.build {
            pool::build(session, name, BuildMode::Folder)?;
        }
        match decision.autostart {
            Some(autostart) => pool::set_autostart(session, name, autostart),
            None => Ok(()),
        }
    })();
    let Err(error) = result else { return Ok(()) };
    let error: Error = error;
    if let Some((old, _)) = &decision.definition
        && error.kind() != Kind::LibvirtUnavailable
        && let Err(failed) = pool::define(session, name, old)
    {
        tracing::error!(pool = name, error = ?failed, "the old definition could not be put back");
        return Err(error.with_detail("not_put_back", "definition"));
    }
    Err(error)
}

impl Decision {
    /// The fields that are not as they shall be.
    pub(super) fn unmet(&self) -> Vec<String> {
        self.changes.iter().map(|change| change.field.clone()).collect()
    }
}
