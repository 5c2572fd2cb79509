//! Holds three lists together: the operations of the OpenAPI document, the rows of the
//! authorisation table, and the tests. A new operation fails here until it has all of them.
//! Exceptions stand in tests/api_coverage_exceptions.txt, with their reasons.

#[path = "support/driver.rs"]
mod driver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use axum::body::Body;
use driver::World;
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use vapor::api::{Api, Limits, core, openapi, router};
use vapor::authz::{Action, Audience};

/// For each operation, tests that would fail if it did not do what it says.
const TESTS: &[(&str, &[&str])] = &[
    ("list_vms", &["a_list_is_filtered_by_state_name_label_and_selector"]),
    ("create_vm", &["a_vm_lives_from_the_flat_body_to_its_deletion"]),
    ("create_vm_enhanced", &["the_full_body_makes_a_vm_on_its_own_path"]),
    ("get_vm", &["a_vm_is_found_by_name_and_by_uuid_under_both_paths"]),
    ("replace_vm", &["put_and_patch_leave_alone_what_is_absent"]),
    ("update_vm", &["put_and_patch_leave_alone_what_is_absent"]),
    ("delete_vm", &["a_vm_lives_from_the_flat_body_to_its_deletion"]),
    ("act_on_vm", &["every_action_in_every_state_answers_as_the_gate_decides"]),
    ("clone_vm", &["a_stopped_vm_is_cloned_with_an_identity_of_its_own"]),
    ("clone_vm_from", &["the_source_may_stand_in_the_body"]),
    ("list_templates", &["settings_live_from_their_creation_to_their_deletion"]),
    ("create_template", &["settings_live_from_their_creation_to_their_deletion"]),
    ("get_template", &["settings_live_from_their_creation_to_their_deletion"]),
    ("update_template", &["settings_live_from_their_creation_to_their_deletion"]),
    ("delete_template", &["a_template_goes_when_nobody_reads_from_it"]),
    ("make_template", &["a_stopped_vm_becomes_a_template_by_copy"]),
    ("create_vm_from_template", &["a_stopped_vm_becomes_a_template_by_copy"]),
    ("get_vm_xml", &["the_definition_is_given_as_xml_and_within_json"]),
    ("replace_vm_xml", &["a_definition_is_replaced_as_xml_and_within_json"]),
    ("list_vm_definitions", &["every_change_is_a_version_with_who_and_when"]),
    ("get_vm_definition", &["every_change_is_a_version_with_who_and_when"]),
    ("diff_vm_definition", &["two_versions_are_compared_in_either_direction"]),
    ("rollback_vm", &["a_rollback_is_planned_done_and_a_version_itself"]),
    ("list_pools", &["pools_volumes_and_networks_are_listed"]),
    ("create_pool", &["a_pool_lives_from_its_creation_to_its_deletion"]),
    ("get_pool", &["a_pool_lives_from_its_creation_to_its_deletion"]),
    ("update_pool", &["a_pool_changes_where_it_can_and_only_the_version_that_was_seen"]),
    ("delete_pool", &["a_pool_with_volumes_goes_with_them_or_not_at_all"]),
    ("start_pool", &["a_pool_lives_from_its_creation_to_its_deletion"]),
    ("stop_pool", &["a_pool_that_running_vms_use_stops_only_if_that_is_meant"]),
    ("refresh_pool", &["a_pool_lives_from_its_creation_to_its_deletion"]),
    ("get_pool_capacity", &["a_pools_capacity_tells_what_is_promised"]),
    ("list_pool_volumes", &["pools_volumes_and_networks_are_listed"]),
    ("list_volumes", &["pools_volumes_and_networks_are_listed"]),
    ("get_volume", &["a_volume_lives_from_its_creation_to_its_deletion"]),
    ("create_volume", &["a_volume_lives_from_its_creation_to_its_deletion"]),
    ("delete_volume", &["a_volume_lives_from_its_creation_to_its_deletion"]),
    ("resize_volume", &["a_volume_takes_its_room_grows_shrinks_is_wiped_and_goes"]),
    ("clone_volume", &["a_clone_is_a_task_and_a_linked_one_holds_its_base"]),
    ("wipe_volume", &["a_volume_takes_its_room_grows_shrinks_is_wiped_and_goes"]),
    ("download_volume", &["what_is_uploaded_is_downloaded"]),
    ("upload_volume", &["what_is_uploaded_is_downloaded", "an_upload_that_fails_leaves_nothing"]),
    ("import_volume", &["images_of_every_format_are_imported"]),
    ("list_uploads", &["an_upload_by_parts_is_whole_at_its_end"]),
    ("create_upload", &["an_upload_by_parts_is_whole_at_its_end"]),
    ("get_upload_options", &["an_upload_by_parts_is_whole_at_its_end"]),
    ("get_upload_offset", &["an_upload_by_parts_is_whole_at_its_end"]),
    ("append_upload", &["an_upload_by_parts_is_whole_at_its_end"]),
    ("terminate_upload", &["what_is_terminated_or_expires_is_deleted"]),
    ("list_iso_uploads", &["an_iso_is_uploaded_to_the_library"]),
    ("create_iso_upload", &["an_iso_is_uploaded_to_the_library"]),
    ("get_iso_upload_options", &["an_iso_is_uploaded_to_the_library"]),
    ("get_iso_upload_offset", &["an_iso_is_uploaded_to_the_library"]),
    ("append_iso_upload", &["an_iso_is_uploaded_to_the_library"]),
    ("terminate_iso_upload", &["an_iso_is_uploaded_to_the_library"]),
    ("list_networks", &["pools_volumes_and_networks_are_listed"]),
    ("create_network", &["a_network_lives_from_its_creation_to_its_deletion"]),
    ("update_network", &["a_stopped_network_takes_every_change_at_once"]),
    ("delete_network", &["a_network_lives_from_its_creation_to_its_deletion"]),
    ("start_network", &["a_network_lives_from_its_creation_to_its_deletion"]),
    ("stop_network", &["a_network_lives_from_its_creation_to_its_deletion"]),
    ("list_network_leases", &["ports_and_leases_are_listed"]),
    ("list_network_ports", &["ports_and_leases_are_listed"]),
    ("get_network", &["pools_volumes_and_networks_are_listed"]),
    ("exchange_medium", &["media_are_exchanged_in_a_stopped_vm"]),
    ("list_isos", &["a_library_is_listed_and_its_images_are_looked_at"]),
    ("register_iso", &["an_image_lives_from_its_registration_to_its_deletion"]),
    ("get_iso", &["a_library_is_listed_and_its_images_are_looked_at"]),
    ("delete_iso", &["an_image_lives_from_its_registration_to_its_deletion"]),
    ("download_iso", &["an_image_is_uploaded_into_the_library_and_downloaded"]),
    ("compute_iso_checksum", &["an_image_lives_from_its_registration_to_its_deletion"]),
    ("list_os_variants", &["operating_systems_are_listed_and_filtered"]),
    ("get_capabilities", &["the_host_and_its_capabilities_are_shown"]),
    ("get_host", &["the_host_and_its_capabilities_are_shown"]),
    ("list_tasks", &["tasks_are_listed_followed_and_logged"]),
    ("get_task", &["tasks_are_listed_followed_and_logged"]),
    ("get_task_log", &["tasks_are_listed_followed_and_logged"]),
    ("cancel_task", &["what_has_finished_cannot_be_cancelled"]),
    ("list_events", &["events_come_as_pages_as_long_polls_and_as_a_stream"]),
    ("get_metrics", &["the_daemon_tells_its_health_version_errors_and_metrics"]),
    ("get_database_backup", &["a_copy_of_the_database_is_whole_and_leaves_nothing_behind"]),
    ("get_health", &["the_daemon_tells_its_health_version_errors_and_metrics"]),
    ("get_ready", &["the_daemon_tells_its_health_version_errors_and_metrics"]),
    ("get_version", &["the_daemon_tells_its_health_version_errors_and_metrics"]),
    ("list_errors", &["the_daemon_tells_its_health_version_errors_and_metrics"]),
    ("get_openapi", &["the_served_document_is_the_committed_one"]),
    ("get_docs", &["the_page_is_served_and_may_load_nothing_from_outside"]),
];

struct Operation {
    id: String,
    method: String,
    path: String,
    document: Value,
}

fn operations() -> Vec<Operation> {
    let paths = openapi::document()["paths"].as_object().expect("paths");
    let mut operations = Vec::new();
    for (path, item) in paths {
        for (method, document) in item.as_object().expect("operations") {
            operations.push(Operation {
                id: document["operationId"].as_str().expect("an id").to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                document: document.clone(),
            });
        }
    }
    operations
}

/// `list operation reason`, a line each.
fn exceptions(list: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api_coverage_exceptions.txt");
    let text = std::fs::read_to_string(path).expect("the exceptions");
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .filter_map(|line| {
            let mut words = line.splitn(3, ' ');
            let (of, id, reason) = (words.next()?, words.next()?, words.next()?);
            assert!(!reason.trim().is_empty(), "an exception without a reason: {line}");
            (of == list).then(|| id.to_owned())
        })
        .collect()
}

#[test]
fn every_operation_has_a_test_and_every_test_that_is_named_exists() {
    let named: BTreeMap<&str, &[&str]> = TESTS.iter().copied().collect();
    let exceptions = exceptions("test");
    for operation in operations() {
        let has = named.get(operation.id.as_str()).is_some_and(|tests| !tests.is_empty());
        assert!(has != exceptions.contains(&operation.id), "{}", operation.id);
    }
    assert_eq!(named.len(), TESTS.len(), "an operation stands there twice");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folders = [folder.clone(), folder.join("real_transfers")];
    let sources: String = folders
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).expect("tests"))
        .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
        .collect();
    for (id, tests) in TESTS {
        assert!(Action::from_id(id).is_some(), "no operation {id}");
        for test in *tests {
            assert!(sources.contains(&format!("fn {test}()")), "{id}: no test {test}");
        }
    }
}

#[test]
fn every_operation_that_takes_a_body_has_an_example() {
    let exceptions = exceptions("example");
    for operation in operations() {
        let Some(content) = operation.document["requestBody"]["content"].as_object() else {
            continue;
        };
        let has = content.values().all(|content| {
            content["examples"].as_object().is_some_and(|examples| !examples.is_empty())
        });
        assert!(has != exceptions.contains(&operation.id), "{}", operation.id);
    }
}

/// The request of a document's operation, made of its examples.
fn request(operation: &Operation) -> Request<Body> {
    let parameters = operation.document["parameters"].as_array().cloned().unwrap_or_default();
    let mut path = operation.path.clone();
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
        let name = parameter["name"].as_str().expect("a name");
        let schema = &parameter["schema"];
        let value = match (schema["type"].as_str(), schema["format"].as_str()) {
            (_, Some("uuid")) => "00000000-0000-7000-8000-000000000000",
            (Some("integer"), _) => "1",
            _ => parameter["example"].as_str().unwrap_or("web1"),
        };
        path = path.replace(&format!("{{{name}}}"), value);
    }
    let request =
        Request::builder().method(operation.method.as_str()).uri(path).header("host", "localhost");
    let content = operation.document["requestBody"]["content"].as_object();
    let Some((media, content)) = content.and_then(|content| content.iter().next()) else {
        return request.body(Body::empty()).expect("a request");
    };
    let example = content["examples"].as_object().and_then(|examples| examples.values().next());
    let value = &example.expect("an example")["value"];
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    request.header("content-type", media).body(Body::from(text)).expect("a request")
}

/// A request that comes through no listener has no peer: it speaks as Vapor itself, which may do
/// nothing over HTTP. An operation that answers it all the same does not ask the table.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_the_authorisation_table_first() {
    let world = World::new().await;
    let router = router(Api::new(core(Limits::default()), world.daemon.services.clone()));
    let exceptions = exceptions("authz");
    for operation in operations() {
        let reply = router.clone().oneshot(request(&operation)).await.expect("a reply");
        let status = reply.status().as_u16();
        let body = reply.into_body().collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let action = Action::from_id(&operation.id).expect("an authorisation row");
        // a reply to HEAD has no body that could name the action
        let named =
            operation.method == "HEAD" || body["error"]["details"]["action"] == operation.id;
        let denied = status == 403 && named;
        let expected = action.audience() == Audience::Caller && !exceptions.contains(&operation.id);
        assert_eq!(denied, expected, "{}: {status} {body}", operation.id);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_served_document_is_the_committed_one() {
    let world = World::new().await;
    let reply = world.get("/api/v1/openapi.json").await;
    assert_eq!(reply.status, 200);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let committed: Value =
        serde_json::from_str(&std::fs::read_to_string(path).expect("docs/openapi.json"))
            .expect("JSON");
    assert!(reply.json() == committed, "docs/openapi.json is not what the code says: make openapi");
    let tag = reply.header("etag");
    let headers = [("if-none-match", tag.as_str())];
    let again = world.send(http::Method::GET, "/api/v1/openapi.json", &headers, None).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_and_may_load_nothing_from_outside() {
    let world = World::new().await;
    let page = world.get("/docs").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    world.stop().await;
}

/// Parameters that the document shows are accepted; one that it does not show is refused.
#[tokio::test(flavor = "multi_thread")]
async fn every_documented_query_parameter_is_known_and_no_other() {
    let world = World::new().await;
    for operation in operations().iter().filter(|operation| operation.method == "GET") {
        let plain = request(operation).uri().path().to_owned();
        let parameters = operation.document["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().expect("a name");
            let value = match parameter["schema"]["type"].as_str() {
                Some("integer") => "1",
                Some("boolean") => "true",
                _ => "name",
            };
            let reply = world.get(&format!("{plain}?{name}={value}")).await;
            let text = String::from_utf8_lossy(&reply.body).into_owned();
            assert!(!text.contains("is unknown"), "{}: {name}: {text}", operation.id);
        }
        let reply = world.get(&format!("{plain}?no_such_parameter=1")).await;
        reply.refused(400, "INVALID_REQUEST");
        assert_eq!(reply.fields(), ["no_such_parameter"], "{}", operation.id);
    }
    world.stop().await;
}
