//! An upload in one request: all of it arrives, or nothing of it stays.

use std::time::Duration;

use super::intake::{Arriving, Intake, Next, Pace, next};
use super::{Target, TransferService, UPLOAD};
use crate::error::{Error, Kind, Result};
use crate::model::VolumeName;
use crate::service::operation::plan;
use crate::service::task::{End, Operation, TaskHandle};
use crate::service::{Context, Outcome};

/// The reply comes when the upload is over, however long that takes: its client sends all the while.
const TO_THE_END: Duration = Duration::from_secs(30 * 86_400);

impl TransferService {
    /// Makes a volume of what arrives.
    ///
    /// # Errors
    /// 409 if there is such a volume; 422 `IMAGE_REFUSED`, `DIGEST_MISMATCH`, `INSUFFICIENT_SPACE`;
    /// 400 if less arrives than was announced, 413 if more. Nothing is left after a failure.
    pub async fn upload(&self, ctx: Context, target: Target, body: Arriving) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.upload_once(&ctx, target, body)).await
    }

    async fn upload_once(&self, ctx: &Context, target: Target, body: Arriving) -> Result<Outcome> {
        VolumeName::try_from(target.name.clone())?;
        self.tools.inventory.look_again(&target.pool, &target.name).await?;
        let blocked = self.may_begin(&target);
        if ctx.dry_run {
            let effect = format!(
                "creates the volume {}/{} of {} bytes",
                target.pool, target.name, target.length
            );
            return Ok(plan(UPLOAD, target.subject(), ("", ""), vec![effect], blocked));
        }
        blocked?;
        let text = Self::author(&target)?;
        let claim = self.tools.tasks.claim(UPLOAD, ctx);
        let (alone, beside) = target.keys();
        let hold = self.tools.gate.take_beside(alone, beside, &claim)?;
        let subject = target.subject();
        let operation = Operation { claim, subject, cancellable: true, wait: TO_THE_END };
        let ctx = Context { wait: None, ..ctx.clone() };
        let service = self.clone();
        self.tools
            .tasks
            .submit(&ctx, operation, hold, move |task| async move {
                service.make_volume(&task, &target, text).await?;
                let done = match service.receive(&task, &target, body).await {
                    Ok(intake) => service.settle_intake(&task, &target, &intake).await,
                    Err(error) => Err(error),
                };
                match done {
                    Ok(result) => Ok(End::Done(result)),
                    Err(error) => Err(service.undo(&task, &target.pool, &target.name, error).await),
                }
            })
            .await
    }

    pub(super) async fn settle_intake(
        &self,
        task: &TaskHandle,
        target: &Target,
        intake: &Intake,
    ) -> Result<serde_json::Value> {
        task.point_of_no_return()?;
        let format = intake.format.ok_or_else(|| Error::internal("an upload without a format"))?;
        self.settle(task, target, format, intake.sha256()).await
    }

    async fn receive(
        &self,
        task: &TaskHandle,
        target: &Target,
        mut body: Arriving,
    ) -> Result<Intake> {
        let mut intake = Intake::new(target);
        let mut pace = Pace::new("receiving", 0, target.length);
        loop {
            let closed = async {
                tokio::select! {
                    () = task.cancelled().cancelled() => {}
                    () = task.stopping().cancelled() => {}
                }
            };
            match next(&mut body, self.limits.stall, closed).await {
                Next::Piece(piece) => intake.take(&self.tools.hypervisor, piece).await?,
                Next::End => break,
                Next::Cut(error) => return Err(error),
                Next::Closed => {
                    task.check_cancelled()?;
                    return Err(Error::new(Kind::ShuttingDown, "the daemon is stopping"));
                }
            }
            if let Some(progress) = pace.at(intake.at) {
                task.progress(progress);
            }
        }
        if !intake.is_whole() {
            let message =
                format!("{} of the announced {} bytes have arrived", intake.at, target.length);
            return Err(Error::new(Kind::InvalidRequest, message)
                .with_field("body", "is shorter than was announced"));
        }
        intake.sync().await?;
        Ok(intake)
    }
}
