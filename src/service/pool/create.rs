//! Making a pool: defined, built, started; undone as a whole if a step fails.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{PoolService, check, intend, pool_key};
use crate::error::{Error, Kind, Result};
use crate::libvirt::pool::BuildMode;
use crate::libvirt::{Lane, Session, pool};
use crate::model::{CreatePool, PoolType, Subject, SubjectType};
use crate::service::adopt::judge_after_loss;
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::pool::PoolSpec;

/// The step that keeps what is to be made.
pub(super) const DEFINE_STEP: &str = "define";

/// What is done to make a pool, and what undoes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Making {
    pub(super) start: bool,
    pub(super) autostart: bool,
    /// Building makes a folder or a volume group that is to be removed if the pool fails.
    pub(super) removes_storage: bool,
    /// The definition with the devices that a volume group is made on. It serves to make the group
    /// and to unmake it; libvirt compares these paths with the names that LVM uses just now, which
    /// change, so the pool that lasts knows its group by name alone.
    pub(super) with_devices: Option<String>,
}

impl PoolService {
    /// Makes a pool. `virStoragePoolDefineXML`, `virStoragePoolBuild`, `virStoragePoolCreate`.
    ///
    /// # Errors
    /// 409 if the name or the storage is another pool's; 422 for fields that the type lacks or does
    /// not take, and for what this host cannot do; what libvirt fails with, and then nothing is left.
    pub async fn create(&self, ctx: Context, request: CreatePool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.create_once(&ctx, request)).await
    }

    async fn create_once(&self, ctx: &Context, request: CreatePool) -> Result<Outcome> {
        let spec = check::spec_of(&request, Uuid::new_v4())?;
        let build = check::making(&request, &spec)?;
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        check::supported(picture.capabilities.as_deref(), &spec)?;
        let grouping = spec.r#type == PoolType::Logical && build.is_some();
        let with_devices = grouping.then(|| xml::pool::author_pool(&spec)).transpose()?;
        let text = xml::pool::author_pool(&lasting(&spec))?;
        let making = Making {
            start: request.start.unwrap_or(true),
            autostart: request.autostart.unwrap_or(true),
            removes_storage: removes_storage(&spec, build),
            with_devices,
        };
        let subject = Subject {
            r#type: SubjectType::Pool,
            id: spec.uuid.to_string(),
            name: spec.name.clone(),
        };
        let key = pool_key(&spec.name);
        if ctx.dry_run {
            let blocked = self
                .may_create(&spec)
                .and_then(|()| self.tools.gate.would_take(std::slice::from_ref(&key), &[]));
            let blocked = match blocked {
                Ok(()) => match self.is_new_group(&spec, &making).await {
                    // The plan is right without it, too.
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => Ok(()),
                    looked => looked,
                },
                refused => refused,
            };
            let effects = effects(&spec, build, &making);
            return Ok(plan("pool.create", subject, ("", &text), effects, blocked));
        }
        self.may_create(&spec)?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("pool.create", ctx);
        let hold = self.tools.gate.take(vec![key], &claim)?;
        // Another creation may have ended since.
        self.may_create(&spec)?;
        self.is_new_group(&spec, &making).await?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.make(&task, spec, text, build, making).await
            })
            .await
    }

    async fn make(
        &self,
        task: &TaskHandle,
        spec: PoolSpec,
        text: String,
        build: Option<BuildMode>,
        making: Making,
    ) -> Result<End> {
        intend(task, DEFINE_STEP, &making).await?;
        let name = spec.name.clone();
        let in_closure = task.clone();
        let made = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                make_all(session, &in_closure, &spec, &text, build, &making)
            })
            .await;
        if let Err(error) = &made
            && error.kind() == Kind::LibvirtUnavailable
        {
            return judge_after_loss(self, task, made.unwrap_err()).await;
        }
        let seen = self.tools.inventory.refresh_pool(&name).await;
        made?;
        seen?;
        self.settled(&name)
    }

    /// A volume group that is to be made must not be there: an undoing, also that by the next daemon,
    /// removes the group of this name, and it must not be somebody else's.
    async fn is_new_group(&self, spec: &PoolSpec, making: &Making) -> Result<()> {
        let (Some(_), Some(group)) = (&making.with_devices, &spec.source.name) else {
            return Ok(());
        };
        let found = self
            .tools
            .hypervisor
            .run(Lane::Slow, SLOW_CALL, |session| {
                pool::sources(session, PoolType::Logical.as_str())
            })
            .await;
        let there = match found {
            Ok(text) => xml::pool::source_names(&text)?,
            Err(error) if error.kind() == Kind::NotSupported => return Ok(()),
            Err(error) => return Err(error),
        };
        if !there.contains(group) {
            return Ok(());
        }
        Err(Error::new(Kind::PoolConflict, format!("there is a volume group {group:?} already"))
            .with_hint("without build, and without devices, it becomes the pool as it is")
            .with_field("source.name", "is a volume group already"))
    }

    fn may_create(&self, spec: &PoolSpec) -> Result<()> {
        let picture = self.tools.inventory.picture();
        if picture.pools.iter().any(|record| record.pool.name == spec.name) {
            return Err(Error::new(
                Kind::PoolAlreadyExists,
                format!("there is a pool {:?} already", spec.name),
            )
            .with_detail("pool", spec.name.as_str())
            .with_field("name", "is taken"));
        }
        match &spec.target.path {
            Some(path) => check::apart(&picture, &spec.name, spec.r#type, path),
            None => Ok(()),
        }
    }
}

/// What the pool is once it is made: see [`Making::with_devices`].
fn lasting(spec: &PoolSpec) -> PoolSpec {
    let mut lasting = spec.clone();
    if spec.r#type == PoolType::Logical {
        lasting.source.devices.clear();
    }
    lasting
}

/// Whether what building makes is to be removed again if the pool fails. A folder that was there
/// before stays, and one of which that cannot be known; libvirt removes none that holds something.
fn removes_storage(spec: &PoolSpec, build: Option<BuildMode>) -> bool {
    let Some(mode) = build else { return false };
    match (mode, &spec.target.path) {
        (BuildMode::Folder, Some(path)) if spec.r#type != PoolType::Zfs => {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let path = Path::new(path);
            !may_be_hidden(path, &mounts) && !path.try_exists().unwrap_or(true)
        }
        _ => true,
    }
}

/// What `ProtectHome=` and `PrivateTmp=` of the unit hide: the daemon sees other folders there than
/// libvirt does.
const HIDDEN: [&str; 5] = ["/tmp", "/var/tmp", "/home", "/root", "/run/user"];

/// Whether the path lies in a folder over which another folder is mounted, and no file system as a whole:
/// fields four and five of `mounts` (`proc(5)`, mountinfo).
fn may_be_hidden(path: &Path, mounts: &str) -> bool {
    let hides = |line: &str, folder: &str| {
        let mut fields = line.split(' ').skip(3);
        fields.next().is_some_and(|root| root != "/") && fields.next() == Some(folder)
    };
    let is_hidden = |folder: &str| mounts.lines().any(|line| hides(line, folder));
    HIDDEN.iter().any(|folder| path.starts_with(folder) && is_hidden(folder))
}

fn make_all(
    session: &Session,
    task: &TaskHandle,
    spec: &PoolSpec,
    text: &str,
    build: Option<BuildMode>,
    making: &Making,
) -> Result<()> {
    let name = spec.name.as_str();
    task.phase("defining");
    pool::define(session, name, making.with_devices.as_deref().unwrap_or(text))?;
    let mut built = false;
    let result = (|| {
        if let Some(mode) = build {
            task.phase("making its storage");
            pool::build(session, name, mode)?;
            built = true;
            if making.with_devices.is_some() {
                pool::define(session, name, text)?;
            }
        }
        if making.start {
            task.phase("starting");
            pool::start(session, name)?;
        }
        if making.autostart {
            pool::set_autostart(session, name, true)?;
        }
        Ok(())
    })();
    let Err(error) = result else { return Ok(()) };
    let error: Error = error;
    if error.kind() == Kind::LibvirtUnavailable {
        // Undone when libvirt is back.
        return Err(error);
    }
    task.phase("undoing");
    let left = unmake(session, name, built && making.removes_storage, making);
    Err(if left.is_empty() { error } else { error.with_detail("left", left) })
}

/// Takes a pool back that did not come about; returns what could not be.
pub(super) fn unmake(
    session: &Session,
    name: &str,
    removes_storage: bool,
    making: &Making,
) -> Vec<String> {
    let mut left = Vec::new();
    match pool::stop(session, name) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), Kind::PoolInactive | Kind::PoolNotFound) => {}
        Err(error) => tracing::warn!(pool = name, error = ?error, "the pool could not be stopped"),
    }
    let remove = || {
        if let Some(text) = &making.with_devices {
            pool::define(session, name, text)?;
        }
        pool::delete_storage(session, name)
    };
    if removes_storage && let Err(error) = remove() {
        // What was never made cannot be removed.
        tracing::info!(pool = name, error = ?error, "no storage was removed");
    }
    match pool::undefine(session, name) {
        Ok(()) => {}
        Err(error) if error.kind() == Kind::PoolNotFound => {}
        Err(error) => {
            tracing::warn!(pool = name, error = ?error, "the definition could not be undone");
            left.push(format!("the pool {name}"));
        }
    }
    left
}

/// What else would happen, for a plan.
fn effects(spec: &PoolSpec, build: Option<BuildMode>, making: &Making) -> Vec<String> {
    let mut effects = Vec::new();
    let devices = || {
        let paths: Vec<&str> =
            spec.source.devices.iter().map(|device| device.path.as_str()).collect();
        paths.join(", ")
    };
    match build {
        Some(BuildMode::Folder) if spec.r#type == PoolType::Zfs => {
            effects.push(format!("makes the ZFS pool on {}", devices()));
        }
        Some(BuildMode::Folder) => {
            let path = spec.target.path.as_deref().unwrap_or_default();
            effects.push(format!("makes the folder {path} if it is missing"));
        }
        Some(mode @ (BuildMode::Careful | BuildMode::Overwrite)) => {
            let what = match spec.r#type {
                PoolType::Logical => "makes a volume group of",
                PoolType::Disk => "writes a partition table on",
                _ => "makes a file system on",
            };
            let fate = if mode == BuildMode::Overwrite {
                "whatever that holds is lost"
            } else {
                "refused if that holds something"
            };
            effects.push(format!("{what} {}; {fate}", devices()));
        }
        None => {}
    }
    if making.start {
        effects.push("starts the pool".to_owned());
    }
    if making.autostart {
        effects.push("starts the pool with the host from now on".to_owned());
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_below_a_mount_of_the_sandbox_may_be_hidden() {
        let mounts = "36 35 98:0 / / rw - ext4 /dev/vda rw\n\
                      40 36 98:0 /tmp/systemd-private-1/tmp /tmp rw - ext4 /dev/vda rw\n\
                      41 36 98:1 / /home rw - ext4 /dev/vdb rw\n";
        let hidden = |path: &str| may_be_hidden(Path::new(path), mounts);
        assert!(hidden("/tmp/pool") && hidden("/tmp"));
        assert!(!hidden("/tmpfs/pool") && !hidden("/home/ann/pool") && !hidden("/srv/tmp/pool"));
        assert!(!may_be_hidden(Path::new("/tmp/pool"), ""));
    }
}
