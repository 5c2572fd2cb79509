//! The document against the code: every operation has its action, its examples fit their schemas,
//! its patterns compile, and what it promises about fields is true.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::contract::Contract;
use super::*;

fn operations() -> Vec<(String, String, &'static Value)> {
    let paths = document()["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter().map(move |(method, operation)| (path.clone(), method.clone(), operation))
        })
        .collect()
}

fn resolve(schema: &'static Value) -> &'static Value {
    match schema["$ref"].as_str() {
        Some(reference) => {
            &document()["components"]["schemas"][reference.rsplit('/').next().unwrap()]
        }
        None => schema,
    }
}

fn contract(schema: &Value) -> Contract {
    let components = document()["components"]["schemas"].as_object().unwrap();
    let components: HashMap<String, Value> =
        components.iter().map(|(name, schema)| (name.clone(), schema.clone())).collect();
    Contract::new(schema.clone(), components)
}

/// Calls `visit` with every object of the document and the path to it.
fn walk(
    value: &'static Value,
    path: &str,
    visit: &mut impl FnMut(&str, &'static Map<String, Value>),
) {
    match value {
        Value::Object(members) => {
            visit(path, members);
            for (key, value) in members {
                walk(value, &format!("{path}/{key}"), visit);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{path}/{index}"), visit);
            }
        }
        _ => {}
    }
}

#[test]
fn every_operation_is_an_action_and_every_action_an_operation() {
    let documented: BTreeSet<&str> = operations()
        .iter()
        .map(|(_, _, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    let actions: BTreeSet<&str> = Action::ALL.iter().map(|action| action.as_str()).collect();
    assert_eq!(documented, actions);
    assert_eq!(operations().len(), actions.len(), "an operationId stands there twice");
}

#[test]
fn every_operation_says_what_it_is() {
    for (path, method, operation) in operations() {
        let id = operation["operationId"].as_str().unwrap();
        let (verb, noun) = id.split_once('_').unwrap();
        assert!(!verb.is_empty() && !noun.is_empty(), "{id}");
        assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{method} {path}");
        let summary = operation["summary"].as_str().unwrap();
        assert!(summary.len() > 5 && !summary.contains('\n'), "{method} {path}: {summary}");
    }
}

#[test]
fn methods_that_change_something_are_the_actions_that_do() {
    for (path, method, operation) in operations() {
        let action = Action::from_id(operation["operationId"].as_str().unwrap()).unwrap();
        let changes = action.effect() == Effect::Changes;
        let reads = matches!(method.as_ref(), "get" | "head" | "options");
        assert_eq!(changes, !reads, "{method} {path}");
    }
}

#[test]
fn every_status_of_the_contract_is_documented_with_both_forms_of_errors() {
    for (path, method, operation) in operations() {
        let responses = operation["responses"].as_object().unwrap();
        let action = Action::from_id(operation["operationId"].as_str().unwrap()).unwrap();
        for kind in operations::kinds(action) {
            let status = status::status(kind).as_u16().to_string();
            let response = responses.get(&status);
            let content =
                &response.unwrap_or_else(|| panic!("{method} {path} {status}"))["content"];
            assert!(content["application/json"]["schema"].is_object(), "{method} {path} {status}");
            assert!(content["application/problem+json"]["schema"].is_object());
        }
        for (status, response) in responses {
            assert!(response["headers"]["X-Request-Id"].is_object(), "{method} {path} {status}");
            assert!(!response["description"].as_str().unwrap().is_empty());
        }
    }
}

#[test]
fn every_body_has_examples_that_fit_its_schema() {
    for (path, method, operation) in operations() {
        let Some(content) = operation["requestBody"]["content"].as_object() else { continue };
        for (media, content) in content {
            let examples = content["examples"].as_object().unwrap();
            assert!(!examples.is_empty(), "{method} {path} {media}");
            for (name, example) in examples {
                let problems = contract(&content["schema"]).check(&example["value"]);
                assert!(problems.is_empty(), "{method} {path} {name}: {problems:?}");
                assert!(example["summary"].is_string());
            }
        }
    }
}

#[test]
fn request_bodies_refuse_what_they_do_not_know() {
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations() {
        let Some(content) = operation["requestBody"]["content"].as_object() else { continue };
        for (_, content) in content {
            let schema = resolve(&content["schema"]);
            if schema["type"] == "string" {
                continue;
            }
            assert_eq!(schema["additionalProperties"], json!(false), "{method} {path}");
            closed(schema, &mut seen);
        }
    }
    assert!(seen.contains("DiskRequest"), "nested objects were looked at: {seen:?}");
}

/// Every object that a request refers to is closed, too.
fn closed(schema: &'static Value, seen: &mut BTreeSet<String>) {
    let mut references = Vec::new();
    walk(schema, "", &mut |_, members| {
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            references.push(reference.rsplit('/').next().unwrap().to_owned());
        }
    });
    for name in references {
        if seen.insert(name.clone()) {
            let schema = &document()["components"]["schemas"][&name];
            if schema["properties"].is_object() {
                assert_eq!(schema["additionalProperties"], json!(false), "{name}");
            }
            closed(schema, seen);
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_pattern_compiles() {
    let schemas = document()["components"]["schemas"].as_object().unwrap();
    let mut references = 0;
    walk(document(), "", &mut |path, members| {
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{path}: {reference}");
            references += 1;
        }
        if let Some(pattern) = members.get("pattern").and_then(Value::as_str) {
            assert!(pattern.starts_with('^') && pattern.ends_with('$'), "{path}: {pattern}");
            regex::Regex::new(pattern).unwrap_or_else(|error| panic!("{path}: {error}"));
        }
    });
    assert!(references > 100);
}

#[test]
fn the_fields_that_can_be_asked_for_are_those_there_are() {
    let items = BTreeMap::from([
        ("list_vms", "Vm"),
        ("list_pools", "Pool"),
        ("list_volumes", "Volume"),
        ("list_pool_volumes", "Volume"),
        ("list_networks", "Network"),
        ("list_isos", "Iso"),
        ("list_os_variants", "OsVariant"),
        ("list_tasks", "Task"),
    ]);
    let mut checked = 0;
    for (path, _, operation) in operations() {
        let Some(item) = items.get(operation["operationId"].as_str().unwrap()) else { continue };
        let parameters = operation["parameters"].as_array().unwrap();
        let fields = parameters.iter().find(|one| one["name"] == "fields").unwrap();
        let pattern = fields["schema"]["pattern"].as_str().unwrap();
        let words = pattern.split_once('(').unwrap().1.split_once(')').unwrap().0;
        let offered: BTreeSet<&str> = words.split('|').collect();
        let schema = &document()["components"]["schemas"][item]["properties"];
        // What only the reply about one VM shows.
        let details: &[&str] =
            if item == &"Vm" { &["clock", "cpu", "hardware", "memory_options"] } else { &[] };
        let there: BTreeSet<&str> = schema
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .filter(|field| !details.contains(field))
            .collect();
        assert_eq!(offered, there, "{path}");
        checked += 1;
    }
    assert_eq!(checked, items.len());
}

#[test]
fn no_parameter_can_be_null() {
    for (path, method, operation) in operations() {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let text = parameter["schema"].to_string();
            assert!(!text.contains("\"null\""), "{method} {path}: {parameter}");
        }
    }
}

#[test]
fn the_committed_document_is_the_served_one() {
    committed("docs/openapi.json", &(serde_json::to_string_pretty(document()).unwrap() + "\n"));
}

#[test]
fn the_committed_catalogue_is_the_served_one() {
    committed("docs/errors.md", &status::catalogue_markdown());
}

/// Compares a file made from the code.
fn committed(name: &str, wanted: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} is not what the code says: make openapi");
}

#[test]
fn the_page_takes_nothing_from_outside() {
    let page = include_str!("docs.html");
    for outside in ["http://", "https://", "src=", "@import", "url(", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
}
