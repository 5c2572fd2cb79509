//! The OpenAPI document: what utoipa reads from the handlers, completed by what all operations
//! share, so that no handler repeats it: failures and their statuses, headers, examples, the
//! replies of dry runs and of operations that go on.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use utoipa::openapi::Schema;
use utoipa::{PartialSchema, ToSchema};

use super::reply::{digest, raw, with_header};
use super::schemas::{Accepted, ErrorReply, Problem, Success};
use super::{contract, examples, operations, status};
use crate::authz::{Action, Effect};
use crate::error::Kind;
use crate::model::Plan;

const DESCRIPTION: &str = "\
Vapor serves the virtual machines, storage pools, networks, tasks and events of one libvirt host.

Every success is `{\"status\":\"success\",\"data\":…}`, every failure \
`{\"status\":\"error\",\"error\":{\"code\",\"message\",\"details\",\"hint\",\"request_id\"}}`; with \
`Accept: application/problem+json` failures come as RFC 9457. Times are RFC 3339 in UTC.

Every mutation is an operation. Its reply is the finished result, or 202 with the task if it goes \
on; `Prefer: wait=N` and `Prefer: respond-async` say how long to wait, `Idempotency-Key` makes a \
repetition harmless for 24 hours, `dry_run=true` answers with the plan and changes nothing.

`/virtualization/computes` is the same resource as `/virtualization/virtualmachines`, served \
identically. `/health`, `/ready`, `/version` and `/metrics` are also at the root.";

/// The document as it is served.
pub struct Served {
    pub bytes: Bytes,
    pub etag: String,
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let (_, document) = super::operations().split_for_parts();
    complete(serde_json::to_value(document).unwrap_or_default())
});

static SERVED: LazyLock<Served> = LazyLock::new(|| {
    let bytes = Bytes::from(DOCUMENT.to_string());
    Served { etag: digest(&bytes), bytes }
});

/// The document.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// The document, rendered once.
pub fn served() -> &'static Served {
    &SERVED
}

/// The page that shows the document. It may load nothing but the document itself.
pub fn page() -> Response {
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    let page = raw("text/html; charset=utf-8", include_str!("docs.html"));
    with_header(page, CONTENT_SECURITY_POLICY, policy)
}

fn complete(mut document: Value) -> Value {
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Vapor",
        "version": env!("CARGO_PKG_VERSION"),
        "description": DESCRIPTION,
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": "/", "description": "This daemon."}]);
    document["tags"] = json!([
        {"name": "virtual machines", "description": "libvirt's domains."},
        {"name": "storage", "description": "Storage pools and their volumes."},
        {"name": "networks", "description": "Virtual networks."},
        {"name": "tasks", "description": "Operations under way and done."},
        {"name": "events", "description": "What happens, numbered."},
        {"name": "host", "description": "The host and what it can do."},
        {"name": "service", "description": "The daemon about itself."},
    ]);
    add_components(&mut document["components"]["schemas"]);
    for operation in operations_mut(&mut document) {
        let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
        // an operation without an action is found by the tests
        if let Some(action) = Action::from_id(id) {
            complete_operation(operation, action);
        }
    }
    document
}

/// Every operation of the document.
fn operations_mut(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let paths = document["paths"].as_object_mut().map(Map::values_mut);
    paths
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
}

fn add<T: ToSchema>(schemas: &mut Vec<(String, utoipa::openapi::RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn add_components(schemas: &mut Value) {
    let mut more = Vec::new();
    add::<ErrorReply>(&mut more);
    add::<Problem>(&mut more);
    add::<Plan>(&mut more);
    add::<Accepted>(&mut more);
    let envelope = Success::<Plan>::schema();
    for name in ["Success_Plan", "Success_Accepted"] {
        more.push((name.to_owned(), envelope.clone()));
    }
    for (name, schema) in more {
        schemas[name] = serde_json::to_value(schema).unwrap_or_default();
    }
    for (name, schema) in schemas.as_object_mut().into_iter().flatten() {
        contract::tidy(schema);
        // the envelope refers to its content, which is shown once
        if let Some(content) = name.strip_prefix("Success_") {
            schema["properties"]["data"] =
                json!({"$ref": format!("#/components/schemas/{content}")});
        }
    }
    // what a list shows where `fields` has chosen: the same object with nothing required
    for (list, noun, item) in [
        ("VmList", "vms", "Vm"),
        ("PoolList", "pools", "Pool"),
        ("VolumeList", "volumes", "Volume"),
        ("NetworkList", "networks", "Network"),
        ("IsoList", "isos", "Iso"),
        ("TemplateList", "templates", "Template"),
        ("DefinitionList", "definitions", "DefinitionVersion"),
        ("OsVariantList", "os_variants", "OsVariant"),
        ("TaskList", "tasks", "Task"),
    ] {
        let mut part = schemas[item].clone();
        if let Some(part) = part.as_object_mut() {
            part.remove("required");
            part.insert("description".to_owned(), "The fields that were asked for.".into());
        }
        let name = format!("{item}Part");
        schemas[list]["properties"][noun]["items"] = json!({"anyOf": [
            {"$ref": format!("#/components/schemas/{item}")},
            {"$ref": format!("#/components/schemas/{name}")},
        ]});
        schemas[name] = part;
    }
    if let Some(map) = schemas.as_object_mut() {
        map.sort_keys();
    }
}

fn complete_operation(operation: &mut Map<String, Value>, action: Action) {
    let mut parameters = match operation.remove("parameters") {
        Some(Value::Array(parameters)) => parameters,
        _ => Vec::new(),
    };
    for parameter in &mut parameters {
        contract::not_null(&mut parameter["schema"]);
    }
    parameters.extend(header_parameters(action));
    if !parameters.is_empty() {
        operation.insert("parameters".to_owned(), Value::Array(parameters));
    }
    if let Some(body) = operation.get_mut("requestBody") {
        body["required"] = json!(true);
        if let Some(content) = body["content"].as_object_mut() {
            for (media, content) in content {
                content["examples"] = examples::of(action, media);
            }
        }
    }
    let mut responses = match operation.remove("responses") {
        Some(Value::Object(responses)) => responses,
        _ => Map::new(),
    };
    add_successes(&mut responses, action);
    add_failures(&mut responses, action);
    for (status, response) in &mut responses {
        response["headers"]["X-Request-Id"] = header("The id of the request.", "string");
        let shows_one = action.effect() == Effect::Changes
            && !operations::is_tus(action)
            && !matches!(action, Action::CancelTask | Action::UploadVolume);
        let is_shown = matches!(status.as_str(), "200" | "201") && shows_one;
        if is_shown || (operations::is_tagged(action) && matches!(status.as_str(), "200" | "304")) {
            response["headers"]["ETag"] = header("The version of what is shown.", "string");
        }
        if matches!(status.as_str(), "201" | "202") {
            response["headers"]["Location"] = header("Where to find it.", "string");
        }
        if matches!(status.as_str(), "429" | "503") {
            response["headers"]["Retry-After"] = header("Seconds to wait.", "integer");
        }
    }
    add_links(&mut responses, action);
    responses.sort_keys();
    operation.insert("responses".to_owned(), Value::Object(responses));
}

fn header(description: &str, kind: &str) -> Value {
    json!({"description": description, "schema": {"type": kind}})
}

fn header_parameters(action: Action) -> Vec<Value> {
    let parameter = |name: &str, description: &str, schema: Value| {
        json!({"name": name, "in": "header", "required": false, "description": description,
            "schema": schema})
    };
    let mut parameters = Vec::new();
    if operations::is_tagged(action) {
        parameters.push(parameter(
            "If-None-Match",
            "Entity tags the client has: 304 if one of them is the present version.",
            json!({"type": "string", "example": "\"5f1d\""}),
        ));
    }
    if action.effect() == Effect::Changes && !operations::is_tus(action) {
        parameters.push(parameter(
            "Idempotency-Key",
            "Names this request: a repetition within 24 hours is answered with the same result.",
            json!({"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}),
        ));
        parameters.push(parameter(
            "Prefer",
            "`wait=N`: wait up to N seconds (at most 300) for the result. `respond-async`: do not \
             wait. Anything else is ignored (RFC 7240).",
            json!({"type": "string", "example": "wait=30"}),
        ));
    }
    if operations::is_guarded(action) {
        parameters.push(parameter(
            "If-Match",
            "Change it only if it is still in one of these versions: 412 otherwise.",
            json!({"type": "string", "example": "\"5f1d\""}),
        ));
    }
    parameters
}

fn reference(component: &str) -> Value {
    let reference = format!("#/components/schemas/{component}");
    json!({"application/json": {"schema": {"$ref": reference}}})
}

fn add_successes(responses: &mut Map<String, Value>, action: Action) {
    if operations::is_tagged(action) {
        let unchanged = json!({"description": "The client has the present version already."});
        responses.insert("304".to_owned(), unchanged);
    }
    if action.effect() != Effect::Changes || operations::is_tus(action) {
        return;
    }
    responses.insert(
        "202".to_owned(),
        json!({"description": "It goes on: follow the task.", "content": reference("Success_Accepted")}),
    );
    let plan = "With `dry_run=true`: what would be done.";
    match responses.get_mut("200") {
        None => {
            let response = json!({"description": plan, "content": reference("Success_Plan")});
            responses.insert("200".to_owned(), response);
        }
        // cancelling has no plan: a dry run shows the task
        Some(_) if action == Action::CancelTask => {}
        Some(response) => {
            let result = response["content"]["application/json"]["schema"].take();
            let planned = reference("Success_Plan")["application/json"]["schema"].take();
            response["content"]["application/json"]["schema"] = json!({"anyOf": [result, planned]});
            let description = response["description"].as_str().unwrap_or_default();
            response["description"] = json!(format!("{description} {plan}"));
        }
    }
}

/// Where a reply leads: from a new thing to what can be done with it, from a task to following it.
fn add_links(responses: &mut Map<String, Value>, action: Action) {
    let link = |operation: Action, parameters: Value| json!({"operationId": operation.as_str(), "parameters": parameters});
    if let Some(response) = responses.get_mut("202") {
        let task = json!({"id": "$response.body#/data/task/id"});
        for follow in [Action::GetTask, Action::GetTaskLog, Action::CancelTask] {
            response["links"][follow.as_str()] = link(follow, task.clone());
        }
    }
    let Some(response) = responses.get_mut("201") else { return };
    match action {
        Action::CreateVm
        | Action::CreateVmEnhanced
        | Action::CloneVm
        | Action::CloneVmFrom
        | Action::CreateVmFromTemplate => {
            let vm = json!({"id": "$response.body#/data/uuid"});
            for next in [
                Action::GetVm,
                Action::UpdateVm,
                Action::ActOnVm,
                Action::DeleteVm,
                Action::GetVmXml,
            ] {
                response["links"][next.as_str()] = link(next, vm.clone());
            }
        }
        Action::CreateVolume => {
            let volume = json!({
                "pool": "$response.body#/data/pool", "volume": "$response.body#/data/name"});
            for next in [Action::GetVolume, Action::DeleteVolume] {
                response["links"][next.as_str()] = link(next, volume.clone());
            }
        }
        Action::CreateTemplate | Action::MakeTemplate => {
            let template = json!({"id": "$response.body#/data/id"});
            for next in [Action::GetTemplate, Action::UpdateTemplate, Action::DeleteTemplate] {
                response["links"][next.as_str()] = link(next, template.clone());
            }
        }
        Action::RegisterIso => {
            let iso = json!({"id": "$response.body#/data/id"});
            for next in [Action::GetIso, Action::DeleteIso] {
                response["links"][next.as_str()] = link(next, iso.clone());
            }
        }
        _ => {}
    }
}

fn add_failures(responses: &mut Map<String, Value>, action: Action) {
    let mut by_status: BTreeMap<StatusCode, Vec<Kind>> = BTreeMap::new();
    for kind in operations::kinds(action) {
        by_status.entry(status::status(kind)).or_default().push(kind);
    }
    for (status, kinds) in by_status {
        let lines: Vec<String> =
            kinds.iter().map(|kind| format!("- `{}`: {}", kind.code(), kind.meaning())).collect();
        let content = json!({
            "application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}},
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}},
        });
        let response = json!({"description": lines.join("\n"), "content": content});
        responses.insert(status.as_u16().to_string(), response);
    }
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
