//! Path and query parameters: decoded strictly, held to the schema the document shows for them,
//! and only then made into a type.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use utoipa::IntoParams;
use utoipa::openapi::path::ParameterIn;

use super::contract::{Contract, not_null, refusal};
use crate::error::{Error, Result};

static CONTRACTS: LazyLock<RwLock<HashMap<TypeId, &'static Contract>>> =
    LazyLock::new(RwLock::default);

/// The contract of a set of parameters, as one object. Made once per type and kept.
fn contract<P: IntoParams + 'static>() -> &'static Contract {
    let known = CONTRACTS.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(contract) = known.get(&TypeId::of::<P>()) {
        return contract;
    }
    drop(known);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for parameter in P::into_params(|| Some(ParameterIn::Query)) {
        let mut schema = serde_json::to_value(&parameter.schema).unwrap_or_default();
        not_null(&mut schema); // a parameter is there or it is not
        if parameter.required == utoipa::openapi::Required::True {
            required.push(Value::from(parameter.name.clone()));
        }
        properties.insert(parameter.name, schema);
    }
    let root = json!({"type": "object", "properties": properties, "required": required,
        "additionalProperties": false});
    let contract: &'static Contract = Box::leak(Box::new(Contract::new(root, HashMap::new())));
    let mut known = CONTRACTS.write().unwrap_or_else(PoisonError::into_inner);
    known.insert(TypeId::of::<P>(), contract);
    contract
}

/// Decodes a query string as HTML forms encode it.
///
/// # Errors
/// [`crate::error::Kind::InvalidRequest`] if an escape is broken or what it means is not UTF-8.
pub fn decode(query: Option<&str>) -> Result<Vec<(String, String)>> {
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(name)?, unescape(value)?))
        })
        .collect()
}

fn unescape(text: &str) -> Result<String> {
    let refuse = |problem: &str| Error::field("query", problem);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => (high * 16 + low) as u8,
                    _ => return Err(refuse("holds a broken percent escape")),
                }
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| refuse("is not UTF-8"))
}

/// Makes `P` of decoded pairs.
///
/// # Errors
/// [`crate::error::Kind::InvalidRequest`] with one entry of `details.fields` for each unknown, repeated or bad
/// parameter.
pub fn read<P: IntoParams + DeserializeOwned + 'static>(pairs: Vec<(String, String)>) -> Result<P> {
    let contract = contract::<P>();
    let mut members = Map::new();
    let mut twice = None;
    for (name, text) in pairs {
        let schema = contract.property(&name);
        let kind = schema.and_then(|schema| schema.get("type")).and_then(Value::as_str);
        if kind == Some("array") {
            if let Value::Array(items) =
                members.entry(name).or_insert_with(|| Value::Array(Vec::new()))
            {
                items.push(Value::String(text));
            }
        } else if members.contains_key(&name) {
            twice.get_or_insert(name);
        } else {
            members.insert(name, typed(kind, text));
        }
    }
    let value = Value::Object(members);
    let problems = contract.check(&value);
    if !problems.is_empty() {
        return Err(refusal(problems));
    }
    if let Some(name) = twice {
        return Err(Error::field(name, "stands there twice"));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Error::field(field, error.into_inner().to_string())
    })
}

/// The text as the JSON type that its schema asks for; left alone where it cannot be that, so that
/// the contract's check says what is wrong.
fn typed(kind: Option<&str>, text: String) -> Value {
    let digits = text.strip_prefix('-').unwrap_or(&text);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match (kind, text.as_str()) {
        (Some("boolean"), "true") => Value::Bool(true),
        (Some("boolean"), "false") => Value::Bool(false),
        (Some("integer"), number) if plain => {
            serde_json::from_str(number).unwrap_or(Value::String(text))
        }
        _ => Value::String(text),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize, IntoParams)]
    #[serde(default)]
    #[into_params(parameter_in = Query)]
    struct Sample {
        #[param(minimum = 1, maximum = 1000)]
        limit: Option<u32>,
        force: bool,
        label: Vec<String>,
        #[param(max_length = 5, pattern = "^[a-z]*$")]
        name: Option<String>,
    }

    fn sample(query: &str) -> Result<Sample> {
        read(decode(Some(query))?)
    }

    fn problem(query: &str) -> String {
        let error = sample(query).expect_err("refused");
        assert_eq!(error.kind(), crate::error::Kind::InvalidRequest, "{error:?}");
        error.message().to_owned()
    }

    #[test]
    fn parameters_are_typed_and_repeated_where_they_may_be() {
        let all = sample("limit=5&force=true&label=a%3Ab&label=c+d&name=x").unwrap();
        let label = vec!["a:b".to_owned(), "c d".to_owned()];
        let wanted = Sample { limit: Some(5), force: true, label, name: Some("x".to_owned()) };
        assert_eq!(all, wanted);
        assert_eq!(sample("").unwrap(), Sample::default());
    }

    #[test]
    fn unknown_parameters_are_refused_with_the_nearest_known_one() {
        assert_eq!(problem("limt=5"), "limt: is unknown; did you mean limit?");
    }

    #[test]
    fn bad_values_are_refused() {
        for query in [
            "limit=0",
            "limit=1001",
            "limit=5.0",
            "limit=x",
            "limit=",
            "limit=99999999999999999999",
            "limit=+5",
            "limit=05&limit=6",
            "force=1",
            "force=",
            "name=toolong",
            "name=A",
            "name=%00",
            "name=%zz",
            "name=%2",
            "name=%ff",
        ] {
            problem(query);
        }
    }

    #[test]
    fn a_parameter_that_stands_there_twice_is_refused() {
        assert_eq!(problem("limit=1&limit=1"), "limit: stands there twice");
    }
}
