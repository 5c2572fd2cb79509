//! Tasks: operations under way and done.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::extract::{Caller, Change, Command, NoQuery, Nothing, Path, Query};
use super::reply::{Conditional, render, success_with, wrap};
use super::schemas::{Success, TaskList, TaskLog};
use super::{Api, lists, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{SubjectType, Task, TaskStatus};
use crate::service::TaskQuery;

/// The operations on tasks.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_tasks))
        .routes(routes!(get_task))
        .routes(routes!(get_task_log))
        .routes(routes!(cancel_task))
}

/// A task in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct TaskPath {
    /// The task's id.
    id: Uuid,
}

/// Which tasks, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct TaskListQuery {
    /// Only tasks that stand so.
    #[param(inline)]
    status: Option<TaskStatus>,
    /// Only tasks of this kind; `vm.*` stands for every kind that begins with `vm.`.
    #[param(max_length = 64, pattern = r"^[a-z][a-z._-]*\*?$", example = "vm.*")]
    kind: Option<String>,
    /// Only tasks about things of this type.
    #[param(inline)]
    subject_type: Option<SubjectType>,
    /// Only tasks about the thing with this UUID (volumes: `pool/volume`), or the VM of this name.
    #[param(min_length = 1, max_length = 511, pattern = r"^[^\x00-\x1F\x7F]+$")]
    subject: Option<String>,
    /// Only tasks that this principal asked for, such as `unix:ann`.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    principal: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<Uuid>,
    /// The order; there is one.
    #[param(pattern = "^-created_at$", default = "-created_at")]
    sort: Option<String>,
    /// Only these fields of each task, separated by commas.
    #[param(
        max_length = 512,
        pattern = "^(id|kind|status|subject|principal|request_id|created_at|started_at|finished_at|progress|cancellable|parent|warnings|result|error)(,(id|kind|status|subject|principal|request_id|created_at|started_at|finished_at|progress|cancellable|parent|warnings|result|error)){0,16}$"
    )]
    fields: Option<String>,
}

/// What is known of a subject by the name a client uses: a VM's or a pool's name becomes its UUID.
pub fn subject_id(api: &Api, subject: Option<String>, kind: Option<SubjectType>) -> Option<String> {
    let subject = subject?;
    let services = api.services();
    let may_be = |wanted| kind.is_none_or(|kind| kind == wanted);
    let vm = || services.vms.get(&subject).ok().map(|record| record.vm.uuid);
    let pool = || services.pools.get(&subject).ok().map(|record| record.pool.uuid);
    let known = (may_be(SubjectType::Vm).then(vm).flatten())
        .or_else(|| may_be(SubjectType::Pool).then(pool).flatten());
    Some(known.map_or(subject, |uuid| uuid.to_string()))
}

/// List tasks.
#[utoipa::path(get, path = "", tag = "tasks", params(TaskListQuery),
    responses((status = 200, description = "A page of tasks.", body = Success<TaskList>)))]
async fn list_tasks(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<TaskListQuery>,
) -> Result<Response> {
    caller.may(Action::ListTasks, Resource::All(SubjectType::Task))?;
    let wanted = TaskQuery {
        status: query.status,
        kind: query.kind,
        subject_type: query.subject_type,
        subject_id: subject_id(&api, query.subject, query.subject_type),
        principal: query.principal,
        limit: query.limit.unwrap_or(100),
        before: query.cursor,
    };
    let page = api.services().tasks.list(&wanted).await?;
    lists::page(&conditional, "tasks", &page, query.fields.as_deref())
}

/// How long to wait.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct WaitQuery {
    /// Seconds to wait for the task to finish.
    #[param(minimum = 0, maximum = 300, default = 0)]
    wait: u64,
}

/// Get a task.
///
/// With `wait` the reply comes as soon as the task has finished, or as it stands then.
#[utoipa::path(get, path = "/{id}", tag = "tasks", params(TaskPath, WaitQuery),
    responses((status = 200, description = "The task.", body = Success<Task>)))]
async fn get_task(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(TaskPath { id }): Path<TaskPath>,
    Query(query): Query<WaitQuery>,
) -> Result<Response> {
    caller.may(Action::GetTask, Resource::One(SubjectType::Task, &id.to_string()))?;
    let wait = Duration::from_secs(query.wait).min(api.core().limits().max_wait);
    let waiting = api.services().tasks.wait(id, wait);
    let task = tokio::select! {
        task = waiting => task?,
        () = api.core().stopping.cancelled() => api.services().tasks.get(id).await?,
    };
    conditional.reply_hashed(wrap(&render(&task)?))
}

/// Get the log of a task.
#[utoipa::path(get, path = "/{id}/log", tag = "tasks", params(TaskPath),
    responses((status = 200, description = "What it has logged.", body = Success<TaskLog>)))]
async fn get_task_log(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetTaskLog, Resource::One(SubjectType::Task, &id.to_string()))?;
    let lines = api.services().tasks.log(id).await?;
    lists::whole("lines", &lines)
}

/// Cancel a task.
///
/// What it has done is undone. 200 with the task if it has ended, 202 while it is still at that.
#[utoipa::path(post, path = "/{id}/cancel", tag = "tasks", params(TaskPath, Change),
    responses((status = 200, description = "It has ended.", body = Success<Task>)))]
async fn cancel_task(
    State(api): State<Api>,
    caller: Caller,
    Path(TaskPath { id }): Path<TaskPath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::CancelTask, Resource::One(SubjectType::Task, &id.to_string()))?;
    let tasks = api.services().tasks.clone();
    let task = api.detached(async move { tasks.cancel(&command.context, id).await }).await?;
    if task.status.is_finished() {
        success_with(StatusCode::OK, &task)
    } else {
        outcome::accepted(&task)
    }
}
