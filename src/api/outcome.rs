//! What became of a mutation, as a reply: the finished result, the task that goes on, or the plan.

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::reply::{no_content, success_with, with_header, with_location};
use super::{NETWORKS, POOLS, TASKS, VMS};
use crate::error::Result;
use crate::model::{Subject, SubjectType, Task};
use crate::service::Outcome;

/// Names the task of a mutation that has finished already.
const X_TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// 201 with `Location` after a creation, 204 after a deletion, else 200 with the result; 202 with
/// the task while it goes on; 200 with the plan of a dry run.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if the reply cannot be written.
pub fn respond(outcome: Outcome) -> Result<Response> {
    match outcome {
        Outcome::Done(task) => done(&task),
        Outcome::Accepted(task) => accepted(&task),
        Outcome::Planned(plan) => success_with(StatusCode::OK, &*plan),
    }
}

fn done(task: &Task) -> Result<Response> {
    let result = task.result.as_ref().unwrap_or(&Value::Null);
    let response = match task.kind.rsplit('.').next() {
        Some("create") => {
            let response = success_with(StatusCode::CREATED, result)?;
            match location(&task.subject) {
                Some(path) => with_location(response, &path),
                None => response,
            }
        }
        Some("delete") => no_content(),
        _ => success_with(StatusCode::OK, result)?,
    };
    Ok(named(response, task))
}

/// 202 with the task.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if the reply cannot be written.
pub fn accepted(task: &Task) -> Result<Response> {
    let response = success_with(StatusCode::ACCEPTED, &json!({"task": task}))?;
    Ok(named(with_location(response, &format!("{TASKS}/{}", task.id)), task))
}

fn named(response: Response, task: &Task) -> Response {
    match HeaderValue::from_str(&task.id.to_string()) {
        Ok(id) => with_header(response, X_TASK_ID, id),
        Err(_) => response,
    }
}

/// Where a thing is found, if it has a path of its own.
fn location(subject: &Subject) -> Option<String> {
    let segment = |text: &str| escape(text);
    match subject.r#type {
        SubjectType::Vm => Some(format!("{VMS}/{}", segment(&subject.id))),
        SubjectType::Pool => Some(format!("{POOLS}/{}", segment(&subject.name))),
        SubjectType::Network => Some(format!("{NETWORKS}/{}", segment(&subject.name))),
        SubjectType::Task => Some(format!("{TASKS}/{}", segment(&subject.id))),
        SubjectType::Volume => {
            let (pool, volume) = subject.id.split_once('/')?;
            Some(format!("{POOLS}/{}/volumes/{}", segment(pool), segment(volume)))
        }
        SubjectType::Device | SubjectType::Host => None,
    }
}

/// Percent-encodes one path segment (RFC 3986, section 3.3).
fn escape(segment: &str) -> String {
    segment.bytes().fold(String::with_capacity(segment.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use http::header::LOCATION;

    use super::*;
    use crate::model::{Progress, TaskStatus};

    fn task(kind: &str, subject: Subject, result: Value) -> Box<Task> {
        Box::new(Task {
            id: uuid::Uuid::nil(),
            kind: kind.to_owned(),
            status: TaskStatus::Succeeded,
            subject,
            principal: "unix:0".to_owned(),
            request_id: String::new(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            progress: Progress::default(),
            cancellable: false,
            parent: None,
            result: Some(result),
            error: None,
        })
    }

    fn vm() -> Subject {
        Subject { r#type: SubjectType::Vm, id: "u1".to_owned(), name: "web1".to_owned() }
    }

    #[test]
    fn a_creation_says_where_the_new_thing_is() {
        let reply = respond(Outcome::Done(task("vm.create", vm(), json!({})))).unwrap();
        assert_eq!(reply.status(), StatusCode::CREATED);
        assert_eq!(reply.headers()[LOCATION], "/api/v1/virtualization/virtualmachines/u1");
    }

    #[test]
    fn the_path_of_a_volume_is_escaped() {
        let subject = Subject {
            r#type: SubjectType::Volume,
            id: "default/a b.qcow2".to_owned(),
            name: "a b.qcow2".to_owned(),
        };
        let reply = respond(Outcome::Done(task("volume.create", subject, json!({})))).unwrap();
        let wanted = "/api/v1/virtualization/storages/pools/default/volumes/a%20b.qcow2";
        assert_eq!(reply.headers()[LOCATION], wanted);
    }

    #[test]
    fn a_deletion_has_no_body_and_other_changes_have_their_result() {
        let reply = respond(Outcome::Done(task("vm.delete", vm(), Value::Null))).unwrap();
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        let reply = respond(Outcome::Done(task("vm.start", vm(), json!({})))).unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[test]
    fn what_goes_on_is_202_with_the_tasks_place() {
        let reply = respond(Outcome::Accepted(task("vm.stop", vm(), Value::Null))).unwrap();
        assert_eq!(reply.status(), StatusCode::ACCEPTED);
        assert_eq!(reply.headers()[LOCATION], format!("/api/v1/tasks/{}", uuid::Uuid::nil()));
    }
}
