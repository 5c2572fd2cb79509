//! Holds what a client sent to the schema that the OpenAPI document shows for it.
//!
//! The same schema serves the document and this check, so that the two cannot drift: a value the
//! document refuses is refused here, before serde sees it, and every problem is told at once with
//! the path of its field. What a schema cannot say (which fields exclude each other, what exists on
//! this host) is the services' business.

use std::any::TypeId;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{LazyLock, PoisonError, RwLock};

use regex::Regex;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::{Error, Kind};
use crate::model::{DeviceName, LabelKey, NetworkName, ResourceName, VmName, VolumeName};

/// No more problems than this are listed for one request.
/// A pattern that is longer than this says nothing to people.
const READABLE: usize = 40;
const MAX_PROBLEMS: usize = 20;

/// One way in which a value breaks its schema.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Such as `storage.disks[0].size`.
    pub field: String,
    pub problem: String,
    /// What a name may be, where the value is one and cannot be.
    pub name_hint: Option<String>,
}

/// A schema with everything it refers to.
pub struct Contract {
    root: Value,
    components: HashMap<String, Value>,
}

static CONTRACTS: LazyLock<RwLock<HashMap<TypeId, &'static Contract>>> =
    LazyLock::new(RwLock::default);
static PATTERNS: LazyLock<RwLock<HashMap<String, Regex>>> = LazyLock::new(RwLock::default);

impl Contract {
    /// The contract of a request body. It is made once per type and kept.
    pub fn of<T: ToSchema + 'static>() -> &'static Contract {
        let known = CONTRACTS.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(contract) = known.get(&TypeId::of::<T>()) {
            return contract;
        }
        drop(known);
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        let contract: &'static Contract = Box::leak(Box::new(Contract {
            root: to_value(&T::schema()),
            components: schemas
                .iter()
                .map(|(name, schema)| (name.clone(), to_value(schema)))
                .collect(),
        }));
        let mut known = CONTRACTS.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(TypeId::of::<T>(), contract);
        contract
    }

    /// A contract of one schema that refers to nothing, or only to `components`.
    pub fn new(root: Value, components: HashMap<String, Value>) -> Self {
        Contract { root, components }
    }

    /// The schema of one member of the root object.
    pub fn property(&self, name: &str) -> Option<&Value> {
        self.root.get("properties")?.get(name)
    }

    /// Every problem of `value`; none if it fits.
    pub fn check(&self, value: &Value) -> Vec<Problem> {
        let mut check = Check { contract: self, path: String::new(), problems: Vec::new() };
        check.value(&self.root, value);
        check.problems
    }
}

/// The error that a list of problems amounts to.
pub fn refusal(problems: Vec<Problem>) -> Error {
    let hint = problems.first().and_then(|first| first.name_hint.clone());
    let kind = if problems.iter().all(|problem| problem.name_hint.is_some()) {
        Kind::InvalidName
    } else {
        Kind::InvalidRequest
    };
    let first = problems.first().map_or_else(String::new, |first| {
        let more = match problems.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more in details.fields"),
        };
        format!("{}: {}{more}", first.field, first.problem)
    });
    let error = problems.into_iter().fold(Error::new(kind, first), |error, problem| {
        error.with_field(problem.field, problem.problem)
    });
    match hint.filter(|_| kind == Kind::InvalidName) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn to_value<T: serde::Serialize>(schema: &T) -> Value {
    // a schema that cannot be written would fail the test of the document first
    let mut schema = serde_json::to_value(schema).unwrap_or(Value::Bool(true));
    tidy(&mut schema);
    schema
}

/// Says of a schema what its derivation leaves out: a field that must be there cannot be null, and
/// null is nobody's default. The document's schemas are tidied by the same function.
pub fn tidy(schema: &mut Value) {
    let Value::Object(members) = schema else { return };
    if members.get("default").is_some_and(Value::is_null) {
        members.remove("default");
    }
    let required = members.get("required").cloned().unwrap_or_default();
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        for (name, property) in properties {
            tidy(property);
            if required.as_array().is_some_and(|all| all.iter().any(|one| one == name)) {
                not_null(property);
            }
        }
    }
}

/// Takes the null out of a schema that allows it.
pub fn not_null(schema: &mut Value) {
    let Value::Object(schema) = schema else { return };
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(branches)) = schema.get_mut("oneOf") {
        branches.retain(|branch| branch.get("type").is_none_or(|only| only != "null"));
        if let [Value::Object(only)] = branches.as_slice() {
            let only = only.clone();
            schema.remove("oneOf");
            schema.extend(only);
        }
    }
}

struct Check<'a> {
    contract: &'a Contract,
    path: String,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn report(&mut self, problem: impl Into<String>) {
        self.note(problem.into(), None);
    }

    fn note(&mut self, problem: String, name_hint: Option<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            let field = if self.path.is_empty() { "body".to_owned() } else { self.path.clone() };
            self.problems.push(Problem { field, problem, name_hint });
        }
    }

    /// Does `work` one level deeper, at `.key` or `[index]`.
    fn below(&mut self, step: std::fmt::Arguments<'_>, work: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let _ = self.path.write_fmt(step);
        work(self);
        self.path.truncate(length);
    }

    fn member(&mut self, key: &str, work: impl FnOnce(&mut Self)) {
        let shown: String = key.chars().take(64).collect();
        if self.path.is_empty() {
            self.below(format_args!("{shown}"), work);
        } else {
            self.below(format_args!(".{shown}"), work);
        }
    }

    fn value(&mut self, schema: &Value, value: &Value) {
        let Value::Object(schema) = schema else { return };
        if let Some(Value::String(reference)) = schema.get("$ref") {
            let name = reference.rsplit('/').next().unwrap_or_default();
            // a name's own words are better than those of its pattern
            if let Some((problem, hint)) = name_problem(name, value) {
                return self.note(problem, Some(hint));
            }
            if let Some(component) = self.contract.components.get(name) {
                self.value(component, value);
            }
        }
        for (word, all) in [("oneOf", false), ("anyOf", false), ("allOf", true)] {
            if let Some(Value::Array(branches)) = schema.get(word) {
                self.branches(branches, value, all);
            }
        }
        if !self.has_type(schema, value) {
            return;
        }
        if let Some(Value::Array(words)) = schema.get("enum")
            && !words.contains(value)
        {
            let words: Vec<String> = words.iter().map(plain).collect();
            return self.report(format!("is none of {}", words.join(", ")));
        }
        match value {
            Value::Number(_) => self.number(schema, value),
            Value::String(text) => self.text(schema, text),
            Value::Array(items) => self.items(schema, items),
            Value::Object(members) => self.members(schema, members),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn branches(&mut self, branches: &[Value], value: &Value, all: bool) {
        let mut closest: Option<Vec<Problem>> = None;
        for branch in branches {
            let mut inner =
                Check { contract: self.contract, path: self.path.clone(), problems: Vec::new() };
            inner.value(branch, value);
            if all {
                self.problems.append(&mut inner.problems);
            } else if inner.problems.is_empty() {
                return;
            } else if branch.get("type").is_none_or(|only| only != "null") {
                // the branch that is wrong deepest inside is the one that was meant
                let depth = |problems: &[Problem]| problems.iter().map(|p| p.field.len()).max();
                if closest.as_deref().is_none_or(|known| depth(known) < depth(&inner.problems)) {
                    closest = Some(inner.problems);
                }
            }
        }
        self.problems.extend(closest.into_iter().flatten());
    }

    fn has_type(&mut self, schema: &Map<String, Value>, value: &Value) -> bool {
        let fits = |name: &Value| match (name.as_str().unwrap_or_default(), value) {
            ("null", Value::Null)
            | ("boolean", Value::Bool(_))
            | ("string", Value::String(_))
            | ("array", Value::Array(_))
            | ("object", Value::Object(_))
            | ("number", Value::Number(_)) => true,
            ("integer", Value::Number(number)) => !number.is_f64(),
            _ => false,
        };
        let (fit, wanted) = match schema.get("type") {
            None => return true,
            Some(Value::Array(names)) => {
                (names.iter().any(fits), names.iter().map(plain).collect::<Vec<_>>().join(" or "))
            }
            Some(name) => (fits(name), plain(name)),
        };
        if !fit {
            let found = match value {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(number) if number.is_f64() => "a fractional or huge number",
                Value::Number(_) => "a number",
                Value::String(_) => "a string",
                Value::Array(_) => "an array",
                Value::Object(_) => "an object",
            };
            self.report(format!("is {found}, and must be {wanted}"));
        }
        fit
    }

    fn number(&mut self, schema: &Map<String, Value>, value: &Value) {
        let limit = |word| schema.get(word).and_then(Value::as_f64);
        let Some(number) = value.as_f64() else { return };
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            self.report(format!("must be at least {least}"));
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            self.report(format!("must be at most {most}"));
        }
    }

    fn text(&mut self, schema: &Map<String, Value>, text: &str) {
        let limit = |word| schema.get(word).and_then(Value::as_u64);
        let length = text.chars().count() as u64;
        if limit("minLength").is_some_and(|least| length < least) {
            return self.report(if length == 0 { "is empty" } else { "is too short" });
        }
        if let Some(most) = limit("maxLength").filter(|most| length > *most) {
            return self.report(format!("has more than {most} characters"));
        }
        if let Some(Value::String(pattern)) = schema.get("pattern")
            && !fits_pattern(pattern, text)
        {
            let example = schema.get("example").and_then(Value::as_str);
            return self.report(match example {
                // A long one explains nothing to anybody.
                Some(example) if pattern.len() > READABLE => format!("is nothing like {example:?}"),
                Some(example) => format!("does not fit {pattern}, such as {example:?}"),
                None => format!("does not fit {pattern}"),
            });
        }
        if schema.get("format").is_some_and(|format| format == "uuid")
            && (text.len() != 36 || uuid::Uuid::try_parse(text).is_err())
        {
            self.report("is not a UUID");
        }
    }

    fn items(&mut self, schema: &Map<String, Value>, items: &[Value]) {
        let limit = |word| schema.get(word).and_then(Value::as_u64);
        if let Some(least) = limit("minItems").filter(|least| (items.len() as u64) < *least) {
            self.report(format!("has fewer than {least} entries"));
        }
        if let Some(most) = limit("maxItems").filter(|most| items.len() as u64 > *most) {
            return self.report(format!("has more than {most} entries"));
        }
        if let Some(schema) = schema.get("items") {
            for (index, item) in items.iter().enumerate() {
                self.below(format_args!("[{index}]"), |check| check.value(schema, item));
            }
        }
    }

    fn members(&mut self, schema: &Map<String, Value>, members: &Map<String, Value>) {
        if let Some(Value::Array(required)) = schema.get("required") {
            for key in required.iter().filter_map(Value::as_str) {
                if !members.contains_key(key) {
                    self.member(key, |check| check.report("is missing"));
                }
            }
        }
        if let Some(most) = schema.get("maxProperties").and_then(Value::as_u64)
            && members.len() as u64 > most
        {
            return self.report(format!("has more than {most} entries"));
        }
        let known = schema.get("properties").and_then(Value::as_object);
        for (key, value) in members {
            if let Some(schema) = known.and_then(|known| known.get(key)) {
                self.member(key, |check| check.value(schema, value));
                continue;
            }
            if let Some(names) = schema.get("propertyNames") {
                self.member(key, |check| check.value(names, &Value::from(key.as_str())));
            }
            match schema.get("additionalProperties") {
                Some(Value::Bool(false)) => {
                    let hint = known.map(|known| nearest(key, known.keys())).unwrap_or_default();
                    self.member(key, |check| check.report(format!("is unknown{hint}")));
                }
                Some(schema) => self.member(key, |check| check.value(schema, value)),
                None => {}
            }
        }
    }
}

/// The nearest of the known words, as the end of a sentence; nothing if none is near.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a String>) -> String {
    let word: String = word.chars().take(64).collect();
    known
        .map(|known| (strsim::damerau_levenshtein(&word, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
        .map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"))
}

/// What is wrong with a name, and what names of its kind may be.
fn name_problem(component: &str, value: &Value) -> Option<(String, String)> {
    let text = value.as_str()?;
    let error = match component {
        "VmName" => text.parse::<VmName>().err(),
        "ResourceName" => text.parse::<ResourceName>().err(),
        "NetworkName" => text.parse::<NetworkName>().err(),
        "VolumeName" => VolumeName::try_from(text.to_owned()).err(),
        "DeviceName" => text.parse::<DeviceName>().err(),
        "LabelKey" => text.parse::<LabelKey>().err(),
        _ => None,
    }?;
    let problem = error.details().get("fields")?.get(0)?.get("problem")?.as_str()?;
    Some((problem.to_owned(), error.hint().to_owned()))
}

fn fits_pattern(pattern: &str, text: &str) -> bool {
    let known = PATTERNS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = known.get(pattern) {
        return regex.is_match(text);
    }
    drop(known);
    // patterns come from the code alone; a test compiles every one of the document
    let Ok(regex) = Regex::new(pattern) else { return false };
    let fits = regex.is_match(text);
    PATTERNS.write().unwrap_or_else(PoisonError::into_inner).insert(pattern.to_owned(), regex);
    fits
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ActionRequest, CreateVm, UpdateVm};

    fn problems<T: ToSchema + 'static>(value: &Value) -> Vec<(String, String)> {
        let problems = Contract::of::<T>().check(value);
        problems.into_iter().map(|problem| (problem.field, problem.problem)).collect()
    }

    fn one<T: ToSchema + 'static>(value: &Value) -> (String, String) {
        let mut found = problems::<T>(value);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    #[test]
    fn a_request_as_documented_has_no_problem() {
        let body = json!({"name":"web1","memory":512,"vcpus":1,"disk_size":4,
            "network":{"type":"network","source":"default"},"labels":{"tier":"web"}});
        assert_eq!(problems::<CreateVm>(&body), []);
        assert_eq!(problems::<UpdateVm>(&json!({"memory": null})), []);
    }

    #[test]
    fn what_has_another_form_is_told_the_form_or_an_example() {
        let pool = |target: Value| json!({"name": "p", "type": "dir", "target": target});
        let told = |target| one::<crate::model::CreatePool>(&pool(target)).1;
        assert_eq!(
            told(json!({"path": "../../etc"})),
            "is nothing like \"/var/lib/libvirt/images\""
        );
        let mode = json!({"path": "/srv", "permissions": {"mode": "rwx"}});
        assert_eq!(told(mode), "does not fit ^0?[0-7]{3}$, such as \"0711\"");
    }

    #[test]
    fn every_problem_is_told_with_its_path() {
        let body = json!({"name":"web1","memory":"much","vcpus":0,
            "storage":{"disks":[{"action":"create","sise":4}]}});
        let found = problems::<CreateVm>(&body);
        let fields: Vec<&str> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["memory", "vcpus", "storage.disks[0].sise"]);
        assert_eq!(found[2].1, "is unknown; did you mean size?");
    }

    #[test]
    fn an_array_is_no_object_and_an_object_no_word() {
        assert!(one::<UpdateVm>(&json!([])).1.contains("an array"));
        assert_eq!(one::<ActionRequest>(&json!({"action":{"start":null}})).0, "action");
        assert_eq!(one::<ActionRequest>(&json!({"action":"strat"})).0, "action");
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(one::<ActionRequest>(&json!({})), ("action".into(), "is missing".into()));
    }

    #[test]
    fn a_bad_name_is_told_in_the_words_of_names() {
        let body = json!({"name":"a/b","memory":512,"vcpus":1});
        let found = Contract::of::<CreateVm>().check(&body);
        assert_eq!(refusal(found).kind(), Kind::InvalidName);
        let found = Contract::of::<CreateVm>().check(&json!({"name":7,"memory":512,"vcpus":1}));
        assert_eq!(refusal(found).kind(), Kind::InvalidRequest);
    }

    #[test]
    fn what_must_be_there_cannot_be_null() {
        let body = json!({"name": null, "memory": 512, "vcpus": null});
        let fields: Vec<_> =
            problems::<CreateVm>(&body).into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["name", "vcpus"]);
    }

    #[test]
    fn label_keys_are_names_too() {
        let (field, _) = one::<UpdateVm>(&json!({"labels":{"a b":"x"}}));
        assert_eq!(field, "labels.a b");
    }

    #[test]
    fn the_list_of_problems_is_bounded() {
        let body: Map<String, Value> = (0..1000).map(|n| (format!("x{n}"), json!(n))).collect();
        assert_eq!(problems::<UpdateVm>(&Value::Object(body)).len(), MAX_PROBLEMS);
    }
}
