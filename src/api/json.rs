//! Strict JSON: duplicate keys, deep nesting and trailing data are refused, and so is everything
//! that is not UTF-8. What passes is a [`Value`] that [`super::contract`] then holds to a schema.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Kind, Result};

/// How deep objects and arrays may be nested. The deepest request of the API needs five levels.
pub const MAX_DEPTH: usize = 32;

/// Reads one JSON value that fills the whole of `bytes`.
///
/// # Errors
/// [`Kind::InvalidRequest`], saying where the text stops being acceptable.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    let refuse = |error: serde_json::Error| {
        Error::new(Kind::InvalidRequest, format!("the body is not acceptable JSON: {error}"))
            .with_field("body", error.to_string())
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: MAX_DEPTH }.deserialize(&mut deserializer).map_err(refuse)?;
    deserializer.end().map_err(refuse)?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(self) -> Result<Strict, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Strict { depth }),
            None => Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // 2.0 is an integer to JSON Schema, and to most who write JSON
        if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            return Ok(Value::from(value as i64));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(inner)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if members.contains_key(&key) {
                let shown: String = key.chars().take(40).collect();
                return Err(A::Error::custom(format!("the key {shown:?} stands there twice")));
            }
            let value = access.next_value_seed(inner)?;
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &[u8]) -> String {
        let error = parse(text).expect_err("refused");
        assert_eq!(error.kind(), Kind::InvalidRequest);
        error.message().to_owned()
    }

    #[test]
    fn ordinary_json_is_read() {
        let value = parse(br#" {"a":[1,-2,2.5,true,null,"x"],"b":{}} "#).unwrap();
        assert_eq!(value, serde_json::json!({"a":[1,-2,2.5,true,null,"x"],"b":{}}));
    }

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        assert_eq!(parse(b"2.0").unwrap(), serde_json::json!(2));
        assert_eq!(parse(b"1e3").unwrap(), serde_json::json!(1000));
    }

    #[test]
    fn a_key_that_stands_there_twice_is_refused_at_any_depth() {
        assert!(refusal(br#"{"a":1,"a":2}"#).contains("\"a\" stands there twice"));
        assert!(refusal(br#"{"x":[{"a":1,"\u0061":2}]}"#).contains("twice"));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in
            [&b""[..], b"{", b"{}}", b"{} x", b"nul", b"\xff", b"\"\xc3\"", b"1e999", b"NaN"]
        {
            refusal(text);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(refusal(nested(MAX_DEPTH + 1).as_bytes()).contains("levels deep"));
        refusal(nested(100_000).as_bytes());
    }
}
