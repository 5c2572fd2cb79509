//! Pools and volumes: listed, and disks created and deleted in them through libvirt. The full
//! management of pools is a later chapter.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::gate::{Gate, Key};
use super::inventory::{Inventory, PoolRecord};
use super::page::{self, Page, PageQuery};
use super::task::{End, Operation, QUICK_WAIT, TaskService};
use super::{Context, Outcome};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, Lane, storage};
use crate::model::plan::Blocker;
use crate::model::vm_request::DiskFormat;
use crate::model::{Plan, Pool, PoolState, ResourceName, Subject, SubjectType, Volume, VolumeRef};
use crate::xml;

/// A libvirt call of an operation that takes longer gets a spare worker in its place.
pub(crate) const SLOW_CALL: Duration = Duration::from_secs(5);

const GIB: u64 = 1 << 30;

/// The body of `POST …/volumes`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    pub name: ResourceName,
    /// GiB.
    #[schema(minimum = 1, maximum = 65536)]
    pub size: u64,
    /// `qcow2` if absent.
    #[serde(default)]
    pub format: DiskFormat,
}

/// Answers for pools and volumes.
#[derive(Clone)]
pub struct StorageService {
    inventory: Inventory,
    hypervisor: Hypervisor,
    tasks: TaskService,
    gate: Gate,
}

impl StorageService {
    pub fn new(
        inventory: Inventory,
        hypervisor: Hypervisor,
        tasks: TaskService,
        gate: Gate,
    ) -> Self {
        StorageService { inventory, hypervisor, tasks, gate }
    }

    /// Pools by name.
    pub fn pools(&self, query: &PageQuery) -> Result<Page<Pool>> {
        let picture = self.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let items: Vec<Arc<Pool>> = picture
            .pools
            .iter()
            .filter(|record| {
                query
                    .name
                    .as_ref()
                    .is_none_or(|name| page::matches_pattern(name, &record.pool.name))
            })
            .map(|record| Arc::new(record.pool.clone()))
            .collect();
        page::page_of(items, query, sort, |pool| (pool.name.clone(), pool.uuid.to_string()))
    }

    /// One pool.
    pub fn pool(&self, name: &str) -> Result<Arc<PoolRecord>> {
        self.inventory.picture().pool(name)
    }

    /// The volumes of one pool, or of all.
    pub fn volumes(&self, query: &PageQuery, pool: Option<&str>) -> Result<Page<Volume>> {
        let picture = self.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let pools = match pool {
            Some(name) => vec![picture.pool(name)?],
            None => picture.pools.clone(),
        };
        let items: Vec<Arc<Volume>> = pools
            .iter()
            .flat_map(|record| record.volumes.iter())
            .filter(|volume| {
                query.name.as_ref().is_none_or(|name| page::matches_pattern(name, &volume.name))
            })
            .cloned()
            .collect();
        let mut page =
            page::page_of(items, query, sort, |volume| (volume.name.clone(), volume.pool.clone()))?;
        // Only what is shown is asked for its users.
        let mut users = String::new();
        for item in &mut page.items {
            let volume = with_users(&picture, item);
            users.push_str(&volume.used_by.join(","));
            users.push(';');
            *item = Arc::new(volume);
        }
        let tag = page::stable_hash(format!("{}{users}", page.etag).as_bytes());
        page.etag = format!("\"{tag:016x}\"");
        Ok(page)
    }

    /// One volume.
    pub fn volume(&self, pool: &str, name: &str) -> Result<Volume> {
        let picture = self.inventory.picture();
        let volume = picture.volume(pool, name)?;
        Ok(with_users(&picture, &volume))
    }

    /// Creates an empty volume. `virStorageVolCreateXML`.
    ///
    /// # Errors
    /// 404 for the pool; 409 if it is inactive or the volume exists.
    pub async fn create_volume(
        &self,
        ctx: Context,
        pool: &str,
        request: CreateVolume,
    ) -> Result<Outcome> {
        self.tasks.once(&ctx, self.create_volume_once(&ctx, pool, request)).await
    }

    async fn create_volume_once(
        &self,
        ctx: &Context,
        pool: &str,
        request: CreateVolume,
    ) -> Result<Outcome> {
        if !(1..=65_536).contains(&request.size) {
            return Err(Error::field("size", "must be between 1 and 65536 GiB"));
        }
        let name = request.name.as_str().to_owned();
        let blocked = self.may_create(pool, &name);
        let text = xml::storage::author_volume(&xml::storage::VolumeSpec {
            name: name.clone(),
            capacity_bytes: request.size * GIB,
            format: request.format,
            sparse: true,
            backing: None,
        })?;
        let subject = volume_subject(pool, &name);
        if ctx.dry_run {
            let effect = format!("creates the volume {pool}/{name} of {} GiB", request.size);
            return Ok(plan("volume.create", subject, &text, effect, blocked));
        }
        blocked?;
        let claim = self.tasks.claim("volume.create", ctx);
        let hold = self.gate.take(vec![Key::Volume(pool.to_owned(), name.clone())], &claim)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let pool = pool.to_owned();
        self.tasks
            .submit(ctx, operation, hold, move |_task| async move {
                let (in_pool, in_name) = (pool.clone(), name.clone());
                service
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                        storage::create_volume(session, &in_pool, &in_name, &text)
                    })
                    .await?;
                service.inventory.refresh_storage().await?;
                service.settled(&pool, &name).await
            })
            .await
    }

    /// Deletes a volume that no VM has as a disk. `virStorageVolDelete`.
    ///
    /// # Errors
    /// 404; 409 `VOLUME_IN_USE` with the VMs' names.
    pub async fn delete_volume(&self, ctx: Context, pool: &str, name: &str) -> Result<Outcome> {
        self.tasks.once(&ctx, self.delete_volume_once(&ctx, pool, name)).await
    }

    async fn delete_volume_once(&self, ctx: &Context, pool: &str, name: &str) -> Result<Outcome> {
        let volume = self.volume(pool, name)?;
        let blocked = if volume.used_by.is_empty() {
            Ok(())
        } else {
            Err(in_use(pool, name, &volume.used_by))
        };
        let subject = volume_subject(pool, name);
        if ctx.dry_run {
            let effect = format!("deletes the volume {pool}/{name}");
            return Ok(plan("volume.delete", subject, "", effect, blocked));
        }
        blocked?;
        let claim = self.tasks.claim("volume.delete", ctx);
        let key = Key::Volume(pool.to_owned(), name.to_owned());
        let hold = self.gate.take(vec![key], &claim)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let (pool, name) = (pool.to_owned(), name.to_owned());
        self.tasks
            .submit(ctx, operation, hold, move |_task| async move {
                service
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                        storage::delete_volume(session, &pool, &name)
                    })
                    .await?;
                service.inventory.refresh_storage().await?;
                Ok(End::Done(Value::Null))
            })
            .await
    }

    fn may_create(&self, pool: &str, name: &str) -> Result<()> {
        let record = self.pool(pool)?;
        if record.pool.state == PoolState::Inactive {
            return Err(Error::new(Kind::PoolInactive, format!("the pool {pool:?} is not active")));
        }
        if record.volumes.iter().any(|volume| volume.name == name) {
            return Err(Error::new(
                Kind::VolumeAlreadyExists,
                format!("the pool {pool:?} has a volume {name:?} already"),
            ));
        }
        Ok(())
    }

    async fn settled(&self, pool: &str, name: &str) -> Result<End> {
        let volume = self.volume(pool, name)?;
        Ok(End::Done(serde_json::to_value(volume).map_err(Error::internal)?))
    }
}

/// 409 with the VMs' names.
pub(crate) fn in_use(pool: &str, name: &str, vms: &[String]) -> Error {
    Error::new(
        Kind::VolumeInUse,
        format!("the volume {pool}/{name} is a disk of {}", vms.join(", ")),
    )
    .with_detail("vms", json!(vms))
}

fn with_users(picture: &super::inventory::Picture, volume: &Volume) -> Volume {
    let reference = VolumeRef { pool: volume.pool.clone(), volume: volume.name.clone() };
    Volume { used_by: picture.users_of(&reference, &volume.path), ..volume.clone() }
}

fn volume_subject(pool: &str, name: &str) -> Subject {
    Subject { r#type: SubjectType::Volume, id: format!("{pool}/{name}"), name: name.to_owned() }
}

fn plan(
    operation: &str,
    subject: Subject,
    text: &str,
    effect: String,
    blocked: Result<()>,
) -> Outcome {
    Outcome::Planned(Box::new(Plan {
        operation: operation.to_owned(),
        subject,
        changes: Vec::new(),
        xml_diff: xml::diff::unified("", text),
        side_effects: vec![effect],
        blockers: blockers(blocked),
    }))
}

/// What stands against an operation, in the words of a plan.
pub(crate) fn blockers(blocked: Result<()>) -> Vec<Blocker> {
    blocked
        .err()
        .map(|error| Blocker {
            code: error.kind().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().to_owned(),
        })
        .into_iter()
        .collect()
}
