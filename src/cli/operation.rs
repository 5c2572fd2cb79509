//! Changes, from the request to their end: the plan of a dry run, the reply of a quick operation,
//! or a task that is waited for.
//!
//! The daemon is asked to wait a second, so that what is quick is over in one exchange; what takes
//! longer comes back as a task, which is then followed with its progress. Ctrl-C ends the waiting
//! and never the operation.

use std::time::Duration;

use clap::Args;
use http::{HeaderName, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::client::{Reply, Request, escape};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::output::{Format, read};
use super::plan;
use super::progress::Meter;
use super::suggest::Meant;
use super::text::{quoted, safe};
use crate::model::{Plan, Task, TaskStatus};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long the daemon may be away while something is followed before that counts as unreachable.
pub const AWAY: Duration = Duration::from_secs(60);

/// Options of every command that changes something.
#[derive(Args, Clone, Debug, Default)]
pub struct ChangeArgs {
    /// Show what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    /// Return as soon as the daemon has taken the operation on, and print its task
    #[arg(long, conflicts_with_all = ["wait", "dry_run"])]
    pub no_wait: bool,
}

/// Options of everything that waits for a task.
#[derive(Args, Clone, Debug, Default)]
pub struct WaitArgs {
    /// Wait no longer than this for the operation to end (exit code 7; it goes on)
    #[arg(long, value_name = "SECONDS")]
    pub wait: Option<u64>,
    /// Print progress as lines on stderr where it is no terminal
    #[arg(long)]
    pub progress: bool,
}

/// What became of a change.
#[derive(Debug)]
pub enum Ended {
    /// It was a dry run, and the plan has been shown.
    Planned,
    /// It is under way, and its task has been shown.
    Accepted,
    /// It is done; the API's data, null where there is none.
    Done(Value),
}

/// Sends a change and sees it to its end.
///
/// # Errors
/// What the daemon reports, now or at the task's end; [`Exit::Timeout`] and [`Exit::Interrupted`]
/// while waiting; for a dry run, the exit code of the first blocker.
pub async fn perform(cx: &mut Context, request: Request, args: &ChangeArgs) -> Result<Ended> {
    let started = Instant::now();
    let request = request.header(IDEMPOTENCY_KEY, &Uuid::new_v4().to_string());
    if args.dry_run {
        let plan = dry_run(cx, request).await?;
        plan::show(cx, &plan)?;
        return Ok(Ended::Planned);
    }
    let prefer = match (args.no_wait, args.wait.wait) {
        (true, _) => "respond-async".to_owned(),
        (false, wait) => format!("wait={}", wait.unwrap_or(1).min(1)),
    };
    let request = request.header(PREFER, &prefer);
    let reply = tokio::select! {
        reply = cx.client.send(&request) => reply?,
        () = interrupted() => return Err(Failure::new(
            Exit::Interrupted,
            "interrupted before the daemon answered; the operation may go on",
        ).with_hint("see `vapor task list`")),
    };
    let reply = reply.checked()?;
    let data = reply.data()?;
    if reply.status != StatusCode::ACCEPTED {
        warn(cx, reply.warnings());
        return Ok(Ended::Done(data));
    }
    let task: Task = read(data.get("task").cloned().unwrap_or_else(|| data.clone()))?;
    if args.no_wait {
        accepted(cx, &task, &data)?;
        return Ok(Ended::Accepted);
    }
    let deadline = args.wait.wait.map(|seconds| started + Duration::from_secs(seconds));
    let task = follow(cx, task.id, Some(task), deadline, args.wait.progress).await?;
    warn(cx, task.warnings.iter().cloned());
    outcome(task).map(Ended::Done)
}

/// Sees a change to its end, and shows what [`show_done`] would. Where there is none of the name that
/// is meant, the failure names the nearest.
///
/// # Errors
/// Those of [`perform`], and of writing.
pub async fn change(
    cx: &mut Context,
    request: Request,
    args: &ChangeArgs,
    meant: Meant<'_>,
    name: &str,
    words: &str,
) -> Result<()> {
    let ended = perform(cx, request, args).await;
    match meant.checked(cx, ended).await? {
        Ended::Done(data) => show_done(cx, &data, name, words),
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// Shows on stderr what the daemon warns of.
pub fn warn(cx: &mut Context, warnings: impl IntoIterator<Item = String>) {
    for text in warnings {
        cx.note(&format!("warning: {text}"));
    }
}

/// Asks what a change would do.
///
/// # Errors
/// What the daemon reports.
pub async fn dry_run(cx: &Context, request: Request) -> Result<Value> {
    let reply: Reply = cx.client.send(&request.query("dry_run", "true")).await?.checked()?;
    let data = reply.data()?;
    Ok(data.get("plan").cloned().unwrap_or(data))
}

/// Shows what a destroying change would do, as the daemon plans it, and asks; `what` is what needs the
/// confirmation.
///
/// # Errors
/// The plan's first blocker, what the daemon reports, and the lack of a yes.
pub async fn ask(
    cx: &mut Context,
    request: Request,
    meant: Meant<'_>,
    what: &str,
    question: &str,
) -> Result<()> {
    let plan = dry_run(cx, request).await;
    let plan: Plan = read(meant.checked(cx, plan).await?)?;
    plan::refuse_blocked(&plan)?;
    for effect in &plan.side_effects {
        cx.note(&format!("  - {}", safe(effect)));
    }
    warn(cx, plan.warnings);
    cx.confirm(false, what, question)
}

fn accepted(cx: &mut Context, task: &Task, data: &Value) -> Result<()> {
    match cx.format {
        Format::Json | Format::Yaml => cx.print_value(data),
        Format::Name => cx.print(&format!("{}\n", task.id)),
        Format::Table | Format::Wide => {
            cx.print(&format!("{} goes on as task {}\n", describe(task), task.id))?;
            cx.note(&format!("follow it with: vapor task wait {}", task.id));
            Ok(())
        }
    }
}

/// `vm.stop of "web1"`.
pub fn describe(task: &Task) -> String {
    format!("{} of {}", safe(&task.kind), quoted(&task.subject.name))
}

/// The result of a finished task, or what it failed of.
///
/// # Errors
/// The task's error.
pub fn outcome(task: Task) -> Result<Value> {
    let what = describe(&task);
    match (task.status, &task.error) {
        (TaskStatus::Succeeded, _) => Ok(task.result.unwrap_or_default()),
        (_, Some(error)) => Err(Failure::reported(error, None)),
        (TaskStatus::Cancelled, None) => {
            Err(Failure::new(Exit::Failed, format!("{what} was cancelled")))
        }
        (status, None) => Err(Failure::new(
            Exit::Failed,
            format!("{what} ended as {} and does not say why", status.as_str()),
        )
        .with_hint(format!("see `vapor task log {}`", task.id))),
    }
}

/// Waits until a task has ended, and shows its progress meanwhile.
///
/// # Errors
/// [`Exit::Timeout`] at the deadline, [`Exit::Interrupted`] at Ctrl-C, [`Exit::Unreachable`] when
/// the daemon stays away, and what it reports. How the task ended is no error here.
pub async fn follow(
    cx: &mut Context,
    id: Uuid,
    known: Option<Task>,
    deadline: Option<Instant>,
    lines: bool,
) -> Result<Task> {
    let mut meter = Meter::new(&cx.terminal, lines);
    let mut last = known;
    let mut seen = Instant::now();
    let mut told = false;
    let ended = loop {
        if let Some(task) = &last {
            meter.show(&mut cx.terminal, task);
            if task.status.is_finished() {
                break Ok(());
            }
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            break Err(still_running(Exit::Timeout, "the time to wait is over", id, last.as_ref()));
        }
        // a task that is not known yet is looked at first; then a second where progress is shown.
        // The daemon answers at once when the task ends
        let step = match (&last, meter.is_silent()) {
            (None, _) => 0,
            (Some(_), true) => 10,
            (Some(_), false) => 1,
        };
        let step = left.map_or(step, |left| step.min(left.as_secs().max(1)));
        let request = Request::get(format!("/tasks/{}", escape(&id.to_string())))
            .query("wait", &step.to_string());
        let pause = left.map_or(Duration::from_secs(3600), |left| left + Duration::from_millis(50));
        let asked = Instant::now();
        let reply = tokio::select! {
            reply = cx.client.send(&request) => reply.and_then(Reply::checked),
            () = sleep(pause) => continue,
            () = interrupted() => {
                break Err(still_running(Exit::Interrupted, "interrupted", id, last.as_ref()));
            }
        };
        let rest = match reply.and_then(|reply| read::<Task>(reply.data()?)) {
            Ok(task) => {
                (seen, told) = (Instant::now(), false);
                // a daemon that does not wait is not asked more often than this
                let early =
                    !task.status.is_finished() && asked.elapsed() < Duration::from_millis(300);
                last = Some(task);
                if early { Duration::from_millis(300) } else { Duration::ZERO }
            }
            Err(failure) if failure.exit != Exit::Unreachable || seen.elapsed() > AWAY => {
                break Err(failure);
            }
            Err(failure) => {
                if !told {
                    meter.clear();
                    cx.note(&format!("{}; trying again", failure.message()));
                    told = true;
                }
                Duration::from_secs(1)
            }
        };
        if !rest.is_zero() {
            tokio::select! {
                () = sleep(rest.min(pause)) => {}
                () = interrupted() => {
                    break Err(still_running(Exit::Interrupted, "interrupted", id, last.as_ref()));
                }
            }
        }
    };
    meter.clear();
    match (ended, last) {
        (Ok(()), Some(task)) => Ok(task),
        (Err(failure), _) => Err(failure),
        (Ok(()), None) => Err(Failure::unintelligible("a task ended that was never seen")),
    }
}

fn still_running(exit: Exit, why: &str, id: Uuid, task: Option<&Task>) -> Failure {
    let what = task.map_or_else(|| "the operation".to_owned(), describe);
    let failure = Failure::new(exit, format!("{why}; {what} goes on as task {id}"))
        .with_note(format!("follow it with: vapor task wait {id}"));
    if task.is_some_and(|task| task.cancellable) {
        failure.with_note(format!("cancel it with: vapor task cancel {id}"))
    } else {
        failure
    }
}

/// Ends when Ctrl-C is pressed. From the first call on the process no longer ends by itself then.
pub async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // without a listener the default is still in place, and ends the process
        std::future::pending::<()>().await;
    }
}

/// Shows the result of a change: the API's data, the name alone, or `words`.
///
/// # Errors
/// Those of writing.
pub fn show_done(cx: &mut Context, data: &Value, name: &str, words: &str) -> Result<()> {
    match cx.format {
        Format::Json | Format::Yaml if data.is_null() => Ok(()),
        Format::Json | Format::Yaml => cx.print_value(data),
        Format::Name => cx.print(&format!("{}\n", safe(name))),
        Format::Table | Format::Wide => cx.print(&format!("{} {words}\n", safe(name))),
    }
}
