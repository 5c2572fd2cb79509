//! ISO images: a library of volumes that hold an optical file system.
//!
//! ```text
//!   register ──▶ header read ──▶ OS recognised ──▶ registered ──▶ iso.checksum, in the background
//!      │ no optical file system                                      │ cut off
//!      └▶ 422, nothing registered                                    └▶ starts anew
//! ```
//!
//! What is registered is a name for a volume and what was learnt of it; the volume stays libvirt's.
//! One that vanishes is shown as missing, and is found again when it is back.

mod checksum;
mod header;
mod library;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::adopt::{Adopter, interrupted};
use super::gate::Key;
use super::operation::{SLOW_CALL, Tools, plan};
use super::page::{self, Page, PageQuery};
use super::task::{End, Operation, QUICK_WAIT, TaskHandle};
use super::transfer::{IsoSink, RegisterUploaded};
use super::volume::pool_key;
use super::{Context, OsVariantService, Outcome, etag};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, volume};
use crate::model::{
    ChecksumStatus, Iso, IsoChecksum, PoolState, RegisterIso, Subject, SubjectType, Task, VolumeRef,
};
use crate::store::{IsoRow, Step};

use library::Library;

/// The step that keeps what a deletion was asked for.
const DELETE_STEP: &str = "delete";

/// Which images, and which part of the list.
#[derive(Clone, Debug, Default)]
pub struct IsoQuery {
    pub page: PageQuery,
    /// The short id of the system on it, in which `*` stands for any text.
    pub os: Option<String>,
}

/// The use cases of ISO images; cheap to clone.
#[derive(Clone)]
pub struct IsoService {
    tools: Tools,
    os_variants: OsVariantService,
    library: Arc<Library>,
}

impl IsoService {
    /// The library as the database holds it.
    ///
    /// # Errors
    /// 503 if the database cannot be read.
    pub async fn open(tools: Tools, os_variants: OsVariantService) -> Result<Self> {
        let library = Arc::new(Library::load(tools.tasks.store().clone()).await?);
        Ok(IsoService { tools, os_variants, library })
    }

    /// Images by name.
    ///
    /// # Errors
    /// 400 for a sort field or a cursor that cannot be understood; 503 before the first picture.
    pub fn list(&self, query: &IsoQuery) -> Result<Page<Iso>> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.page.sort.as_deref().unwrap_or("name");
        let field = sort.strip_prefix('-').unwrap_or(sort);
        if !matches!(field, "name" | "size_bytes" | "created_at") {
            return Err(Error::field("sort", "is not one of name, size_bytes, created_at"));
        }
        let items: Vec<Arc<Iso>> = self
            .library
            .all()
            .iter()
            .map(|row| library::view(row, &picture))
            .filter(|iso| {
                let named = query.page.name.as_ref();
                let os = iso.os_variant.as_deref().unwrap_or_default();
                named.is_none_or(|name| page::matches_pattern(name, &iso.name))
                    && query.os.as_ref().is_none_or(|wanted| page::matches_pattern(wanted, os))
            })
            .map(Arc::new)
            .collect();
        page::page_of(items, &query.page, sort, |iso| {
            let key = match field {
                "size_bytes" => format!("{:020}", iso.size_bytes),
                "created_at" => format!("{:030}", iso.created_at.as_nanosecond()),
                _ => iso.name.clone(),
            };
            (key, iso.id.to_string())
        })
    }

    /// One image by id or name.
    pub fn get(&self, id: &str) -> Result<Iso> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        Ok(library::view(&*self.row(id)?, &picture))
    }

    /// The volume of an image.
    ///
    /// # Errors
    /// 404.
    pub fn volume_of(&self, id: &str) -> Result<VolumeRef> {
        let row = self.row(id)?;
        Ok(VolumeRef { pool: row.pool.clone(), volume: row.volume.clone() })
    }

    fn row(&self, id: &str) -> Result<Arc<IsoRow>> {
        self.library.get(id)
    }

    fn result(&self, row: &IsoRow) -> Result<End> {
        let iso = self.get(&row.id.to_string())?;
        Ok(End::Done(serde_json::to_value(iso).map_err(Error::internal)?))
    }

    /// Registers a volume as an image.
    ///
    /// # Errors
    /// 404 for pool and volume; 409 if it or the name is registered, or the pool is inactive; 422
    /// if it holds no optical file system, or the OS variant is unknown.
    pub async fn register(&self, ctx: Context, request: RegisterIso) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.register_once(&ctx, request)).await
    }

    async fn register_once(&self, ctx: &Context, request: RegisterIso) -> Result<Outcome> {
        let reference = VolumeRef { pool: request.pool.clone(), volume: request.volume.clone() };
        let name = request.name.unwrap_or_else(|| request.volume.clone());
        let picture = self.tools.inventory.picture();
        if picture.pool(&reference.pool)?.pool.state == PoolState::Inactive {
            let message = format!("the pool {:?} is not active", reference.pool);
            return Err(Error::new(Kind::PoolInactive, message));
        }
        picture.volume(&reference.pool, &reference.volume)?;
        if name.contains('/') || Uuid::try_parse(&name).is_ok() {
            return Err(Error::field("name", "looks like an id or a path; choose another"));
        }
        self.known_variant(request.os_variant.as_deref()).await?;
        let free = self.library.is_free(&name, &reference);
        let now = Timestamp::now();
        let row = IsoRow {
            id: Uuid::now_v7(),
            name,
            description: request.description.unwrap_or_default(),
            pool: request.pool,
            volume: request.volume,
            os_variant: request.os_variant,
            created_at: now,
            updated_at: now,
            generation: 1,
            ..IsoRow::default()
        };
        if ctx.dry_run {
            let effects = vec![
                format!("registers {}/{} as {:?}", row.pool, row.volume, row.name),
                "computes its checksum in the background".to_owned(),
            ];
            return Ok(plan("iso.register", subject(&row), ("", ""), effects, free));
        }
        free?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("iso.register", ctx);
        let beside = vec![Key::Volume(row.pool.clone(), row.volume.clone()), pool_key(&row.pool)];
        let hold = self.tools.gate.take_beside(Vec::new(), beside, &claim)?;
        let operation =
            Operation { claim, subject: subject(&row), cancellable: false, wait: QUICK_WAIT };
        let (service, context) = (self.clone(), background(ctx));
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |_task| async move {
                let row = service.learn(row).await?;
                let row = service.library.insert(row).await?;
                service.checksum_soon(&context, &row).await;
                service.result(&row)
            })
            .await
    }

    /// Registers an image that has just been uploaded, on behalf of the operation that did so and
    /// holds its volume.
    ///
    /// # Errors
    /// 409 if it or the name is registered; 422 if it holds no optical file system.
    pub async fn register_uploaded(&self, ctx: &Context, upload: RegisterUploaded) -> Result<Iso> {
        let now = Timestamp::now();
        let row = IsoRow {
            id: Uuid::now_v7(),
            name: upload.name,
            pool: upload.pool,
            volume: upload.volume,
            size_bytes: upload.size_bytes,
            created_at: now,
            updated_at: now,
            generation: 1,
            ..IsoRow::default()
        };
        let mut row = self.learn(row).await?;
        if let Some(sha256) = upload.sha256 {
            let sha256 = Some(checksum::hex(&sha256));
            row.checksum = IsoChecksum { status: ChecksumStatus::Done, sha256 };
        }
        let row = self.library.insert(row).await?;
        if row.checksum.status == ChecksumStatus::Pending {
            // The upload's own hold is in the way until it has ended.
            let (service, context, id) = (self.clone(), background(ctx), row.id);
            tokio::spawn(async move { service.checksum_later(&context, id).await });
        }
        self.get(&row.id.to_string())
    }

    /// 422 for a short id that the database, if there is one, does not know.
    async fn known_variant(&self, short_id: Option<&str>) -> Result<()> {
        let Some(short_id) = short_id else { return Ok(()) };
        match self.os_variants.knows(short_id).await? {
            true => Ok(()),
            false => Err(Error::new(
                Kind::NotSupported,
                format!("libosinfo's database knows no OS variant {short_id:?}"),
            )
            .with_field("os_variant", "is unknown")
            .with_hint("list them with GET /api/v1/virtualization/os-variants")),
        }
    }

    /// Fills in what the image itself says.
    async fn learn(&self, mut row: IsoRow) -> Result<IsoRow> {
        let reference = VolumeRef { pool: row.pool.clone(), volume: row.volume.clone() };
        let mut reader = self.tools.hypervisor.read_volume(&reference).await?;
        row.size_bytes = reader.size();
        let bytes = reader.read(header::OFFSET, header::LENGTH).await?;
        row.header = header::parse(&bytes).ok_or_else(|| {
            Error::new(
                Kind::NotAnIso,
                format!(
                    "the volume {}/{} holds no ISO 9660 or UDF file system",
                    row.pool, row.volume
                ),
            )
        })?;
        row.detected_os = self.os_variants.identify(&row.header).await?;
        Ok(row)
    }

    async fn set_checksum(&self, id: Uuid, checksum: IsoChecksum) -> Result<Arc<IsoRow>> {
        self.library.change(id, |row| row.checksum = checksum).await
    }

    /// Begins the checksum. What keeps it from beginning leaves it pending.
    async fn checksum_soon(&self, ctx: &Context, row: &IsoRow) {
        if let Err(error) = self.begin_checksum(ctx, row).await {
            tracing::warn!(iso = %row.name, error = ?error, "the checksum is computed later");
        }
    }

    /// Begins the checksum as soon as nobody works on the volume any more.
    async fn checksum_later(&self, ctx: &Context, id: Uuid) {
        for _ in 0..600 {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let Ok(row) = self.row(&id.to_string()) else { return };
            match self.begin_checksum(ctx, &row).await {
                Err(error) if matches!(error.kind(), Kind::VolumeBusy | Kind::PoolBusy) => {}
                Err(error) => {
                    return tracing::warn!(iso = %row.name, error = ?error, "no checksum");
                }
                Ok(_) => return,
            }
        }
    }

    /// Begins the checksums that no task computes: of images whose registration was the last that
    /// an earlier daemon did.
    pub async fn catch_up(self) {
        while !self.tools.inventory.filled(std::time::Duration::from_secs(3600)).await {}
        for row in self.library.all() {
            let pending = row.checksum.status == ChecksumStatus::Pending;
            if pending && self.library.computed_by(row.id).is_none() {
                self.checksum_soon(&Context::system(), &row).await;
            }
        }
    }

    /// Deletes an image from the library, and its volume if that is asked for.
    ///
    /// # Errors
    /// 404; 409 `ISO_IN_USE` with the VMs' names.
    pub async fn delete(&self, ctx: Context, id: &str, delete_volume: bool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, id, delete_volume)).await
    }

    async fn delete_once(&self, ctx: &Context, id: &str, delete_volume: bool) -> Result<Outcome> {
        let row = self.row(id)?;
        let iso = self.get(&row.id.to_string())?;
        ctx.expect_version(format_args!("the ISO {:?}", row.name), &etag(&iso)?)?;
        let free = not_inserted(&iso);
        if ctx.dry_run {
            let mut effects = vec![format!("removes {:?} from the library", row.name)];
            if delete_volume {
                effects.push(format!("deletes the volume {}/{}", row.pool, row.volume));
            }
            return Ok(plan("iso.delete", subject(&row), ("", ""), effects, free));
        }
        free?;
        if delete_volume {
            self.tools.need_libvirt()?;
        }
        // Nobody needs the checksum any more.
        if let Some(task) = self.library.computed_by(row.id)
            && let Err(error) = self.tools.tasks.cancel(&Context::system(), task).await
        {
            tracing::debug!(iso = %row.name, error = ?error, "the checksum was not cancelled");
        }
        let claim = self.tools.tasks.claim("iso.delete", ctx);
        let keys = vec![Key::Iso(row.id), Key::Volume(row.pool.clone(), row.volume.clone())];
        let hold = self.tools.gate.take_beside(keys, vec![pool_key(&row.pool)], &claim)?;
        // Whoever inserts it holds the volume, so that this is the last look.
        not_inserted(&self.get(&row.id.to_string())?)?;
        let operation =
            Operation { claim, subject: subject(&row), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let step = json!({"delete_volume": delete_volume});
                task.intend(vec![(DELETE_STEP.to_owned(), step)]).await?;
                if delete_volume {
                    service.delete_volume(&row).await?;
                }
                service.library.remove(row.id).await?;
                Ok(End::Done(Value::Null))
            })
            .await
    }

    /// Deletes the volume; that it is gone already is as good.
    async fn delete_volume(&self, row: &IsoRow) -> Result<()> {
        let (pool, name) = (row.pool.clone(), row.volume.clone());
        let delete = move |session: &Session| volume::delete_if_there(session, &pool, &name);
        self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, delete).await?;
        self.tools.inventory.refresh_pool(&row.pool).await
    }
}

impl IsoSink for IsoService {
    fn register(
        &self,
        uploaded: RegisterUploaded,
    ) -> Pin<Box<dyn Future<Output = Result<Uuid>> + Send + '_>> {
        Box::pin(async move {
            let iso = self.register_uploaded(&Context::system(), uploaded).await?;
            Ok(iso.id)
        })
    }
}

impl Adopter for IsoService {
    const KINDS: &'static [&'static str] = &["iso.register", "iso.delete", "iso.checksum"];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, _: &[Step]) -> Vec<Key> {
        Uuid::try_parse(&task.subject.id).ok().map(Key::Iso).into_iter().collect()
    }

    async fn judge(&self, handle: &TaskHandle, task: &Task, _: Instant) -> Result<End> {
        let name = &task.subject.name;
        let row = self.row(&task.subject.id);
        match (task.kind.as_str(), row) {
            ("iso.register", Ok(row)) => self.result(&row),
            ("iso.register", Err(_)) => Err(interrupted(format!(
                "the registration of the ISO image {name:?} was cut off; it is not registered"
            ))),
            // Reading it changes nothing, so that it can begin anew.
            ("iso.checksum", Ok(row)) => self.checksum(handle, row.id).await,
            ("iso.checksum", Err(_)) => {
                Err(interrupted(format!("the ISO image {name:?} is not registered any more")))
            }
            ("iso.delete", Err(_)) => Ok(End::Done(Value::Null)),
            ("iso.delete", Ok(row)) => self.judge_delete(task, &row).await,
            (kind, _) => Err(interrupted(format!("{kind} of {name:?} was cut off"))),
        }
    }
}

impl IsoService {
    /// A deletion whose volume is gone is finished; any other has not begun.
    async fn judge_delete(&self, task: &Task, row: &IsoRow) -> Result<End> {
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let with_volume = steps.iter().any(|step| step.undo["delete_volume"] == json!(true));
        self.tools.inventory.refresh_pool(&row.pool).await?;
        let gone = self.tools.inventory.picture().volume(&row.pool, &row.volume).is_err();
        if with_volume && gone {
            self.library.remove(row.id).await?;
            return Ok(End::Done(Value::Null));
        }
        Err(interrupted(format!(
            "the deletion of the ISO image {:?} was cut off; it is still registered",
            row.name
        )))
    }
}

/// 409 with the VMs' names.
fn not_inserted(iso: &Iso) -> Result<()> {
    if iso.inserted_in.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::IsoInUse,
        format!("the ISO image {:?} is inserted in {}", iso.name, iso.inserted_in.join(", ")),
    )
    .with_detail("vms", json!(iso.inserted_in)))
}

/// The same caller's context for what goes on in the background.
fn background(ctx: &Context) -> Context {
    Context {
        principal: ctx.principal.clone(),
        request_id: ctx.request_id.clone(),
        ..Context::system()
    }
}

fn subject(row: &IsoRow) -> Subject {
    Subject { r#type: SubjectType::Iso, id: row.id.to_string(), name: row.name.clone() }
}
