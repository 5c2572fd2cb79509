//! `vapor task …`.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::{HeaderName, Method};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::client::Request;
use super::context::{Context, Style};
use super::failure::{Exit, Failure, Result};
use super::operation::{WaitArgs, describe, follow, outcome};
use super::output::{Column, Format, Listing, Sheet, fetch_list, read};
use super::progress;
use super::text::{age, moment, or_none, safe, seconds_short, to_the_second, yes_no};
use crate::model::{Task, TaskLogLine, TaskStatus};

/// What can be done with tasks.
#[derive(Subcommand, Debug)]
pub enum TaskCommand {
    /// List the tasks, the newest first
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show one task
    Show(OneArgs),
    /// Wait until tasks have ended; the exit code is that of the first one that failed
    Wait(WaitTaskArgs),
    /// Cancel a task
    Cancel(OneArgs),
    /// Show what a task has done so far
    Log(OneArgs),
}

/// Which tasks are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only those in this state: queued, running, succeeded, failed, cancelled, interrupted
    #[arg(long)]
    pub status: Option<String>,
    /// Only those of this kind, such as vm.start
    #[arg(long)]
    pub kind: Option<String>,
    /// Only those of this virtual machine (name or UUID)
    #[arg(long, value_name = "VM")]
    pub vm: Option<String>,
    /// No more than this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// One task.
#[derive(Args, Debug)]
pub struct OneArgs {
    /// The task's id
    #[arg(value_name = "TASK")]
    pub id: Uuid,
}

/// Tasks to wait for.
#[derive(Args, Debug)]
pub struct WaitTaskArgs {
    /// Ids of tasks
    #[arg(value_name = "TASK", required = true)]
    pub ids: Vec<Uuid>,
    #[command(flatten)]
    pub wait: WaitArgs,
}

const COLUMNS: &[Column<Task>] = &[
    Column::text("ID", |task, _| task.id.to_string()),
    Column::text("KIND", |task, _| task.kind.clone()),
    Column::text("SUBJECT", |task, _| task.subject.name.clone()),
    Column::text("STATUS", |task, _| task.status.as_str().to_owned()),
    Column::text("PROGRESS", |task, _| progress::cell(task)),
    Column::number("AGE", |task, now| age(now, task.created_at)),
    Column::number("TOOK", |task, _| took(task)),
    Column::wide("BY", |task, _| task.principal.clone()),
    Column::wide("REQUEST", |task, _| task.request_id.clone()),
    Column::wide("ERROR", |task, _| {
        or_none(task.error.as_ref().and_then(|error| error.get("message")?.as_str()))
    }),
];

const LISTING: Listing<'_, Task> =
    Listing { noun: "tasks", columns: COLUMNS, name: |task| task.id.to_string() };

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: TaskCommand) -> Result<()> {
    match command {
        TaskCommand::List(args) => list(cx, &args).await,
        TaskCommand::Show(args) => show(cx, &args).await,
        TaskCommand::Wait(args) => wait(cx, &args).await,
        TaskCommand::Cancel(args) => cancel(cx, &args).await,
        TaskCommand::Log(args) => log(cx, &args).await,
    }
}

async fn list(cx: &mut Context, args: &ListArgs) -> Result<()> {
    let mut request = Request::get("/tasks")
        .maybe("status", args.status.as_deref())
        .maybe("kind", args.kind.as_deref());
    if let Some(vm) = &args.vm {
        let id = super::vm_uuid(cx, vm).await?;
        request = request.query("subject_type", "vm").query("subject", &id);
    }
    let data = fetch_list(cx, request, "tasks", Some(args.limit as usize)).await?;
    LISTING.show(cx, &data)
}

fn path(id: Uuid, rest: &str) -> String {
    format!("/tasks/{id}{rest}")
}

async fn show(cx: &mut Context, args: &OneArgs) -> Result<()> {
    let data = cx.client.get(path(args.id, "")).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let task: Task = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", task.id));
    }
    let text = sheet(cx, &task).render();
    cx.print(&text)
}

fn sheet(cx: &Context, task: &Task) -> Sheet {
    let style = match task.status {
        TaskStatus::Queued | TaskStatus::Running => Style::Yellow,
        TaskStatus::Succeeded => Style::Green,
        TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Interrupted => Style::Red,
    };
    let mut sheet = Sheet::default();
    sheet
        .row("id", task.id.to_string())
        .row("kind", &task.kind)
        .row("subject", format!("{} {}", task.subject.r#type.as_str(), task.subject.name))
        .painted("status", cx.paint(style, task.status.as_str()));
    if task.status == TaskStatus::Running {
        sheet.row("progress", progress::summary(task));
    }
    sheet
        .row("asked for by", &task.principal)
        .row("request", &task.request_id)
        .row("created", moment(cx.now, task.created_at));
    if task.finished_at.is_some() {
        sheet.row("took", took(task));
    } else {
        sheet.row("cancellable", yes_no(task.cancellable));
    }
    if let Some(parent) = task.parent {
        sheet.row("part of", parent.to_string());
    }
    sheet.rows("warnings", task.warnings.iter().cloned());
    if let Some(error) = &task.error {
        let text = Failure::reported(error, None).render();
        // made safe already, line by line
        for (index, line) in text.lines().enumerate() {
            let line = line.strip_prefix("error: ").unwrap_or(line);
            sheet.painted(if index == 0 { "error" } else { "" }, line.to_owned());
        }
    }
    sheet
}

fn took(task: &Task) -> String {
    match (task.started_at, task.finished_at) {
        (Some(start), Some(end)) => {
            let millis = end.as_millisecond().saturating_sub(start.as_millisecond()).max(0);
            match millis.unsigned_abs() {
                millis @ 0..1000 => format!("{millis}ms"),
                millis @ 1000..10_000 => format!("{:.1}s", millis as f64 / 1000.0),
                millis => seconds_short(millis / 1000),
            }
        }
        _ => super::text::NONE.to_owned(),
    }
}

async fn wait(cx: &mut Context, args: &WaitTaskArgs) -> Result<()> {
    let deadline = args.wait.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut failed: Option<Exit> = None;
    for id in &args.ids {
        let task = follow(cx, *id, None, deadline, args.wait.progress).await?;
        let what = describe(&task);
        if cx.format.is_data() {
            let data = serde_json::to_value(&task).map_err(Failure::unintelligible)?;
            cx.print_value(&data)?;
        } else if cx.format == Format::Name {
            cx.print(&format!("{id}\n"))?;
        } else {
            cx.print(&format!("{what} {}\n", task.status.as_str()))?;
        }
        if let Err(failure) = outcome(task) {
            cx.report(&failure);
            failed.get_or_insert(failure.exit);
        }
    }
    failed.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

async fn cancel(cx: &mut Context, args: &OneArgs) -> Result<()> {
    let key = HeaderName::from_static("idempotency-key");
    let request = Request::new(Method::POST, path(args.id, "/cancel"))
        .header(key, &Uuid::new_v4().to_string());
    let data = cx.client.send(&request).await?.checked()?.data()?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", args.id));
    }
    let task = data.get("task").cloned().unwrap_or(data);
    let words = match read::<Task>(task) {
        Ok(task) if task.status.is_finished() => {
            format!("{} {}\n", describe(&task), task.status.as_str())
        }
        Ok(task) => format!("{} is being cancelled\n", describe(&task)),
        Err(_) => format!("task {} is being cancelled\n", args.id),
    };
    cx.print(&words)
}

async fn log(cx: &mut Context, args: &OneArgs) -> Result<()> {
    let data = cx.client.get(path(args.id, "/log")).await?;
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let lines = match data {
        Value::Array(_) => data,
        Value::Object(mut members) => {
            let list = ["log", "lines", "entries"].iter().find_map(|name| members.remove(*name));
            list.unwrap_or_default()
        }
        other => other,
    };
    let lines: Vec<TaskLogLine> = read(lines)?;
    let text: String = lines
        .iter()
        .map(|line| format!("{}  {}\n", to_the_second(line.time), safe(&line.message)))
        .collect();
    cx.print(&text)
}
