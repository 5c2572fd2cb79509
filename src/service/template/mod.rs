//! Templates: what VMs are made from.
//!
//! ```text
//!   settings ──▶ template.create ──┐
//!   a stopped VM ──▶ template.make ┴─▶ a row, and base volumes ──▶ from-template ──▶ vm.create
//!                      copied, or its own disks                     overlays, or copies
//! ```
//!
//! A template is a row in SQLite: settings in the words of `POST V`, and the names of volumes. That
//! these are its bases stands in the picture, so that nobody writes to them or deletes them. What a
//! template needs and is gone is told by the picture whenever somebody looks.

mod adopt;
mod deploy;
mod from_vm;
mod library;
mod make;
mod problems;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::gate::Key;
use super::inventory::Picture;
use super::operation::{SLOW_CALL, Tools, plan};
use super::page::{self, Page, PageQuery};
use super::task::{End, Operation, QUICK_WAIT};
use super::vm::{VmService, check_shape};
use super::volume::{pool_key, volume_key};
use super::{Context, Outcome, etag};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::{
    CreateTemplate, Subject, SubjectType, Template, TemplateSettings, UpdateTemplate, VolumeRef,
};
use crate::store::TemplateRow;

use library::Library;

/// The step that keeps which volumes a deletion takes along.
const DELETE_STEP: &str = "delete";

/// The use cases of templates; cheap to clone.
#[derive(Clone)]
pub struct TemplateService {
    tools: Tools,
    vms: VmService,
    library: Arc<Library>,
}

impl TemplateService {
    /// The templates as the database holds them.
    ///
    /// # Errors
    /// 503 if the database cannot be read.
    pub async fn open(tools: Tools, vms: VmService) -> Result<Self> {
        let store = tools.tasks.store().clone();
        let library = Arc::new(Library::load(store, tools.inventory.clone()).await?);
        Ok(TemplateService { tools, vms, library })
    }

    /// Templates by name.
    ///
    /// # Errors
    /// 400 for a sort field or a cursor that cannot be understood; 503 before the first picture.
    pub fn list(&self, query: &PageQuery) -> Result<Page<Template>> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        let field = sort.strip_prefix('-').unwrap_or(sort);
        if !matches!(field, "name" | "created_at") {
            return Err(Error::field("sort", "is not one of name, created_at"));
        }
        let named = |row: &&Arc<TemplateRow>| {
            query.name.as_ref().is_none_or(|name| page::matches_pattern(name, &row.name))
        };
        let items: Vec<Arc<Template>> = self
            .library
            .all()
            .iter()
            .filter(named)
            .map(|row| Arc::new(library::view(row, &picture)))
            .collect();
        page::page_of(items, query, sort, |template| {
            let key = match field {
                "created_at" => format!("{:030}", template.created_at.as_nanosecond()),
                _ => template.name.clone(),
            };
            (key, template.id.to_string())
        })
    }

    /// One template by id or name.
    ///
    /// # Errors
    /// 404; 503 before the first picture.
    pub fn get(&self, id: &str) -> Result<Template> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        Ok(library::view(&*self.library.get(id)?, &picture))
    }

    /// 412 unless `If-Match` is absent or names the present version.
    fn check_if_match(&self, ctx: &Context, row: &TemplateRow) -> Result<()> {
        if ctx.if_match.is_none() {
            return Ok(());
        }
        let template = library::view(row, &self.tools.inventory.picture());
        ctx.expect_version(format_args!("the template {:?}", row.name), &etag(&template)?)
    }

    fn result(&self, row: &TemplateRow) -> Result<End> {
        let template = library::view(row, &self.tools.inventory.picture());
        Ok(End::Done(serde_json::to_value(template).map_err(Error::internal)?))
    }

    /// Makes a template of settings alone.
    ///
    /// # Errors
    /// 409 if the name is taken; 422 for settings that contradict each other.
    pub async fn create(&self, ctx: Context, request: CreateTemplate) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.create_once(&ctx, request)).await
    }

    async fn create_once(&self, ctx: &Context, request: CreateTemplate) -> Result<Outcome> {
        let now = Timestamp::now();
        let row = TemplateRow {
            id: Uuid::now_v7(),
            name: String::from(request.name),
            description: request.description.unwrap_or_default(),
            settings: settings(request.settings)?,
            min_memory: request.min_memory,
            min_vcpus: request.min_vcpus,
            min_disk: request.min_disk,
            owner: ctx.principal.to_string(),
            created_at: now,
            updated_at: now,
            generation: 1,
            ..TemplateRow::default()
        };
        let free = proper(&row.name).and_then(|()| self.library.is_free(&row.name, None));
        if ctx.dry_run {
            let effects = vec![format!("keeps the settings as the template {:?}", row.name)];
            return Ok(plan("template.create", subject(&row), ("", ""), effects, free));
        }
        free?;
        let claim = self.tools.tasks.claim("template.create", ctx);
        let keys = vec![Key::Template(row.id), Key::TemplateName(row.name.clone())];
        let hold = self.tools.gate.take(keys, &claim)?;
        let operation =
            Operation { claim, subject: subject(&row), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |_task| async move {
                let row = service.library.insert(row).await?;
                service.result(&row)
            })
            .await
    }

    /// Changes a template; its disk images stay.
    ///
    /// # Errors
    /// 404; 409 if the name is taken; 422 for settings that contradict each other.
    pub async fn update(&self, ctx: Context, id: &str, request: UpdateTemplate) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.update_once(&ctx, id, request)).await
    }

    async fn update_once(
        &self,
        ctx: &Context,
        id: &str,
        request: UpdateTemplate,
    ) -> Result<Outcome> {
        let row = self.library.get(id)?;
        self.check_if_match(ctx, &row)?;
        let new = request.settings.map(settings).transpose()?;
        let name = request.name.map(String::from);
        let free = match &name {
            Some(name) => proper(name).and_then(|()| self.library.is_free(name, Some(row.id))),
            None => Ok(()),
        };
        if ctx.dry_run {
            let effects = vec![format!("changes the template {:?}", row.name)];
            return Ok(plan("template.update", subject(&row), ("", ""), effects, free));
        }
        free?;
        let claim = self.tools.tasks.claim("template.update", ctx);
        let mut keys = vec![Key::Template(row.id)];
        keys.extend(name.clone().map(Key::TemplateName));
        let hold = self.tools.gate.take(keys, &claim)?;
        // Nobody changes it any more.
        let row = self.library.get(&row.id.to_string())?;
        self.check_if_match(ctx, &row)?;
        let operation =
            Operation { claim, subject: subject(&row), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |_task| async move {
                let changed = service.library.change(row.id, |row| {
                    let TemplateRow { min_memory, min_vcpus, min_disk, .. } = row.clone();
                    row.name = name.unwrap_or(std::mem::take(&mut row.name));
                    row.description =
                        request.description.unwrap_or(std::mem::take(&mut row.description));
                    row.settings = new.unwrap_or(row.settings.take());
                    row.min_memory = request.min_memory.or(min_memory);
                    row.min_vcpus = request.min_vcpus.or(min_vcpus);
                    row.min_disk = request.min_disk.or(min_disk);
                });
                service.result(&*changed.await?)
            })
            .await
    }

    /// Deletes a template, and its images if that is asked for.
    ///
    /// # Errors
    /// 404; 409 `TEMPLATE_IN_USE` while disks read from its images, with the VMs' names.
    pub async fn delete(&self, ctx: Context, id: &str, delete_volumes: bool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, id, delete_volumes)).await
    }

    async fn delete_once(&self, ctx: &Context, id: &str, delete_volumes: bool) -> Result<Outcome> {
        let row = self.library.get(id)?;
        self.check_if_match(ctx, &row)?;
        let free = self.tools.inventory.decide(|picture| unused(picture, &row)).await.map(drop);
        let volumes: Vec<VolumeRef> = match delete_volumes {
            true => row.disks.iter().map(crate::model::TemplateDisk::reference).collect(),
            false => Vec::new(),
        };
        if ctx.dry_run {
            let mut effects = vec![format!("forgets the template {:?}", row.name)];
            effects.extend(volumes.iter().map(|volume| format!("deletes the volume {volume}")));
            return Ok(plan("template.delete", subject(&row), ("", ""), effects, free));
        }
        free?;
        let pools: BTreeSet<&str> = row.disks.iter().map(|disk| disk.pool.as_str()).collect();
        if !volumes.is_empty() {
            self.tools.need_libvirt()?;
        }
        let claim = self.tools.tasks.claim("template.delete", ctx);
        let mut keys = vec![Key::Template(row.id)];
        keys.extend(row.disks.iter().map(|disk| volume_key(&disk.pool, &disk.volume)));
        let beside = pools.iter().map(|pool| pool_key(pool)).collect();
        let hold = self.tools.gate.take_beside(keys, beside, &claim)?;
        self.check_if_match(ctx, &*self.library.get(&row.id.to_string())?)?;
        // Snapshots and copies by other hands change chains without an event.
        if !volumes.is_empty() {
            for pool in &pools {
                match self.tools.inventory.refresh_users(pool).await {
                    Err(error) if error.kind() == Kind::PoolNotFound => {}
                    other => other?,
                }
            }
        }
        let row = self.library.get(&row.id.to_string())?;
        unused(&self.tools.inventory.picture(), &row)?;
        let operation =
            Operation { claim, subject: subject(&row), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(vec![(DELETE_STEP.to_owned(), json!(volumes))]).await?;
                service.library.remove(row.id).await?;
                service.delete_images(&row.name, volumes).await?;
                Ok(End::Done(Value::Null))
            })
            .await
    }

    /// Deletes the images of a template that is gone; those that are gone already are as good.
    async fn delete_images(&self, name: &str, volumes: Vec<VolumeRef>) -> Result<()> {
        if volumes.is_empty() {
            return Ok(());
        }
        let name = name.to_owned();
        let deleted = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let mut left = Vec::new();
                let mut first = None;
                for reference in &volumes {
                    let VolumeRef { pool, volume: image } = reference;
                    if let Err(error) = volume::delete_if_there(session, pool, image) {
                        left.push(reference.to_string());
                        first.get_or_insert(error);
                    }
                }
                match first {
                    None => Ok(()),
                    Some(error) => Err(Error::new(
                        error.kind(),
                        format!(
                            "the template {name:?} is deleted, but these images are left: {}",
                            left.join(", ")
                        ),
                    )
                    .with_detail("left", left)
                    .with_source(error)),
                }
            })
            .await;
        // What is left is what the caller should hear of.
        if let Err(error) = self.tools.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the volumes will be seen with the next refresh");
        }
        deleted
    }
}

/// Settings as they are kept, if they make sense by themselves.
fn settings(settings: TemplateSettings) -> Result<Value> {
    check_shape(&settings.0)?;
    Ok(deploy::strip(serde_json::to_value(settings.0).map_err(Error::internal)?))
}

/// A name that looks like an id would hide the template of that id.
fn proper(name: &str) -> Result<()> {
    if Uuid::try_parse(name).is_ok() {
        return Err(Error::field("name", "looks like an id; choose another"));
    }
    Ok(())
}

fn subject(row: &TemplateRow) -> Subject {
    Subject { r#type: SubjectType::Template, id: row.id.to_string(), name: row.name.clone() }
}

/// 409 with the names of who reads from the images.
fn unused(picture: &Picture, row: &TemplateRow) -> Result<()> {
    let (vms, volumes) = problems::users(row, picture);
    if vms.is_empty() && volumes.is_empty() {
        return Ok(());
    }
    let names = if vms.is_empty() { &volumes } else { &vms };
    Err(Error::new(
        Kind::TemplateInUse,
        format!("disks of {} read from the template {:?}", names.join(", "), row.name),
    )
    .with_detail("vms", json!(vms))
    .with_detail("volumes", json!(volumes)))
}
