//! Reading the documents that clients give. What is wrong is told with line and column and without
//! a word of the document, which may hold passwords.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// How a user-data begins whose body is not YAML, or YAML only after something else has been done
/// to it: a script, includes, a template, MIME, code.
const OTHER_HEADERS: &[&str] = &[
    "#!",
    "#include",
    "#include-once",
    "#cloud-boothook",
    "#part-handler",
    "#cloud-config-jsonp",
    "## template: jinja",
    "Content-Type:",
    "MIME-Version:",
    "From ",
];

/// 400 unless the document is one that cloud-init knows by its header, and YAML if it says so.
pub(super) fn check_data(field: &str, document: &str) -> Result<()> {
    let first = document.lines().next().unwrap_or_default().trim_end();
    let is = |header: &str| {
        let same =
            first.get(..header.len()).is_some_and(|start| start.eq_ignore_ascii_case(header));
        same && (!header.starts_with("#include")
            || first.len() == header.len()
            || first[header.len()..].starts_with(char::is_whitespace)
            || !header.ends_with("include"))
    };
    match first {
        "#cloud-config" => read::<Body>(field, document).map(drop),
        "#cloud-config-archive" => read::<Vec<IgnoredAny>>(field, document).map(drop),
        _ if OTHER_HEADERS.iter().any(|header| is(header)) => Ok(()),
        _ => Err(Error::field(field, "does not begin with a header that cloud-init knows")
            .with_hint(
                "the first line must be #cloud-config, #cloud-config-archive, #include, \
             ## template: jinja, or begin with #! or a MIME header",
            )),
    }
}

/// 400 unless the document is a YAML mapping.
pub(super) fn mapping(field: &str, document: &str) -> Result<()> {
    read::<Body>(field, document).map(drop)
}

/// 400 unless the document is a YAML mapping of a network-config that cloud-init knows.
pub(super) fn network(field: &str, document: &str) -> Result<()> {
    let mut config = read::<Map<String, Value>>(field, document)?;
    if let Some(Value::Object(inner)) = config.remove("network") {
        config = inner;
    }
    let version = config.get("version").and_then(Value::as_u64);
    let disabled = config.get("config").is_some_and(|config| config == "disabled");
    if disabled || matches!(version, Some(1 | 2)) {
        return Ok(());
    }
    Err(Error::field(field, "has no version, which must be 1 or 2"))
}

/// The meta-data as a mapping; an empty one if it is none.
pub(super) fn meta(document: &str) -> Map<String, Value> {
    serde_saphyr::from_str_with_options(document, options()).unwrap_or_default()
}

/// A scalar in words.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// As cloud-init's own reader takes it: of a key that stands there twice, the last one counts.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    }
}

fn read<'a, T: Deserialize<'a>>(field: &str, document: &'a str) -> Result<T> {
    serde_saphyr::from_str_with_options(document, options()).map_err(|error| {
        let place = error.location().map(|at| (at.line(), at.column()));
        let problem = match place {
            Some((line, column)) if line > 0 => {
                format!("is not the YAML that it should be: line {line}, column {column}")
            }
            _ => "is not the YAML that it should be".to_owned(),
        };
        // Not the reader's own words: they may quote the document.
        let refused = Error::field(field, problem);
        match place {
            Some((line, column)) if line > 0 => {
                refused.with_detail("line", line).with_detail("column", column)
            }
            _ => refused,
        }
    })
}

/// A mapping, or nothing at all, of which only the shape matters.
struct Body;

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Mapping;
        impl<'de> Visitor<'de> for Mapping {
            type Value = Body;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_unit<E>(self) -> std::result::Result<Body, E> {
                Ok(Body)
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Body, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Body)
            }
        }
        deserializer.deserialize_any(Mapping)
    }
}
