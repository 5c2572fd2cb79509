//! What became of a mutation, as a reply: the finished result, the task that goes on, or the plan.

use axum::response::Response;
use http::header::{ETAG, WARNING};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::reply::{no_content, quoted, success_with, with_header, with_location};
use super::{Api, ISOS, NETWORKS, POOLS, TASKS, VMS};
use crate::error::Result;
use crate::model::{Subject, SubjectType, Task};
use crate::service::{Outcome, etag, network};

/// Names the task of a mutation that has finished already.
const X_TASK_ID: HeaderName = HeaderName::from_static("x-task-id");

/// 201 with `Location` after a creation, 204 after a deletion, else 200 with the result; 202 with
/// the task while it goes on; 200 with the plan of a dry run.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if the reply cannot be written.
pub fn respond(api: &Api, outcome: Outcome) -> Result<Response> {
    match outcome {
        Outcome::Done(task) => done(&task, |subject| match subject.r#type {
            SubjectType::Vm => {
                let record = api.services().vms.get(&subject.id).ok()?;
                Some((record.vm.generation, record.etag.clone()))
            }
            SubjectType::Pool => {
                let record = api.services().pools.get(&subject.name).ok()?;
                Some((record.pool.generation, record.etag().ok()?))
            }
            SubjectType::Network => {
                let network = api.services().networks.get(&subject.name).ok()?;
                Some((network.generation, network::etag(&network).ok()?))
            }
            _ => None,
        }),
        Outcome::Accepted(task) => accepted(&task),
        Outcome::Planned(plan) => success_with(StatusCode::OK, &*plan),
    }
}

/// `present` tells generation and tag of a VM, a pool or a network as it is now.
fn done(task: &Task, present: impl Fn(&Subject) -> Option<(u64, String)>) -> Result<Response> {
    let result = task.result.as_ref().unwrap_or(&Value::Null);
    let tag = || match task.subject.r#type {
        // its tag, unless it has changed again meanwhile
        SubjectType::Vm | SubjectType::Pool | SubjectType::Network => {
            let (generation, etag) = present(&task.subject)?;
            (result["generation"] == generation).then_some(etag)
        }
        // what an upload results in is not the volume alone
        SubjectType::Volume if task.kind.ends_with(".upload") => None,
        SubjectType::Volume | SubjectType::Iso | SubjectType::Template => etag(result).ok(),
        _ => None,
    };
    let response = match task.kind.rsplit('.').next() {
        Some("create" | "clone" | "make" | "register" | "upload" | "import") => {
            let response = tagged(success_with(StatusCode::CREATED, result)?, tag());
            match location(&task.subject) {
                Some(path) => with_location(response, &path),
                None => response,
            }
        }
        Some("delete") => no_content(),
        _ => tagged(success_with(StatusCode::OK, result)?, tag()),
    };
    Ok(about(response, task))
}

fn tagged(response: Response, tag: Option<String>) -> Response {
    match tag.and_then(|tag| HeaderValue::from_str(&quoted(&tag)).ok()) {
        Some(tag) => with_header(response, ETAG, tag),
        None => response,
    }
}

/// 202 with the task.
///
/// # Errors
/// [`crate::error::Kind::Internal`] if the reply cannot be written.
pub fn accepted(task: &Task) -> Result<Response> {
    let response = success_with(StatusCode::ACCEPTED, &json!({"task": task}))?;
    Ok(about(with_location(response, &format!("{TASKS}/{}", task.id)), task))
}

/// Names the task, and repeats its warnings where also a client sees them that reads no tasks.
fn about(mut response: Response, task: &Task) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&task.id.to_string()) {
        headers.insert(X_TASK_ID, id);
    }
    for warning in &task.warnings {
        if let Some(value) = warning_value(warning) {
            headers.append(WARNING, value);
        }
    }
    response
}

/// `299 - "text"` (RFC 7234, section 5.5, as other control planes still use it).
fn warning_value(text: &str) -> Option<HeaderValue> {
    let clean = text.replace(|found: char| found.is_control(), " ");
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
}

/// Where a thing is found, if it has a path of its own.
fn location(subject: &Subject) -> Option<String> {
    let segment = |text: &str| escape(text);
    match subject.r#type {
        SubjectType::Vm => Some(format!("{VMS}/{}", segment(&subject.id))),
        SubjectType::Pool => Some(format!("{POOLS}/{}", segment(&subject.name))),
        SubjectType::Network => Some(format!("{NETWORKS}/{}", segment(&subject.name))),
        SubjectType::Iso => Some(format!("{ISOS}/{}", segment(&subject.id))),
        SubjectType::Template => Some(format!("{VMS}/templates/{}", segment(&subject.id))),
        SubjectType::Task => Some(format!("{TASKS}/{}", segment(&subject.id))),
        SubjectType::Volume => {
            let (pool, volume) = subject.id.split_once('/')?;
            Some(format!("{POOLS}/{}/volumes/{}", segment(pool), segment(volume)))
        }
        SubjectType::Device | SubjectType::Host => None,
    }
}

/// Percent-encodes one path segment (RFC 3986, section 3.3).
pub fn escape(segment: &str) -> String {
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
            warnings: Vec::new(),
            result: Some(result),
            error: None,
        })
    }

    fn vm() -> Subject {
        Subject { r#type: SubjectType::Vm, id: "u1".to_owned(), name: "web1".to_owned() }
    }

    fn of(kind: &str, subject: Subject, result: Value) -> Response {
        let present = |subject: &Subject| (subject.id == "u1").then(|| (7, "\"7-ab\"".to_owned()));
        done(&task(kind, subject, result), present).unwrap()
    }

    #[test]
    fn a_result_bears_the_tag_of_its_version_unless_that_is_gone() {
        let reply = of("vm.start", vm(), json!({"generation": 7}));
        assert_eq!(reply.headers()[ETAG], "\"7-ab\"");
        let reply = of("vm.start", vm(), json!({"generation": 6}));
        assert!(!reply.headers().contains_key(ETAG));
    }

    #[test]
    fn a_creation_says_where_the_new_thing_is() {
        let reply = of("vm.create", vm(), json!({}));
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
        let reply = of("volume.create", subject, json!({}));
        let wanted = "/api/v1/virtualization/storages/pools/default/volumes/a%20b.qcow2";
        assert_eq!(reply.headers()[LOCATION], wanted);
    }

    #[test]
    fn a_deletion_has_no_body_and_other_changes_have_their_result() {
        let reply = of("vm.delete", vm(), Value::Null);
        assert_eq!(reply.status(), StatusCode::NO_CONTENT);
        let reply = of("vm.start", vm(), json!({}));
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[test]
    fn warnings_are_headers_that_no_text_can_break() {
        let mut task = task("vm.create", vm(), json!({}));
        task.warnings = vec!["more than \"1\" \\ host\r\nX: y".to_owned(), "zwölf".to_owned()];
        let reply = done(&task, |_| None).unwrap();
        let told: Vec<&[u8]> =
            reply.headers().get_all(WARNING).iter().map(HeaderValue::as_bytes).collect();
        let first = br#"299 - "more than \"1\" \\ host  X: y""#.as_slice();
        assert_eq!(told, [first, "299 - \"zwölf\"".as_bytes()]);
    }

    #[test]
    fn what_goes_on_is_202_with_the_tasks_place() {
        let reply = accepted(&task("vm.stop", vm(), Value::Null)).unwrap();
        assert_eq!(reply.status(), StatusCode::ACCEPTED);
        assert_eq!(reply.headers()[LOCATION], format!("/api/v1/tasks/{}", uuid::Uuid::nil()));
    }
}
