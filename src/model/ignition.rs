//! What a guest with Ignition, such as Fedora CoreOS and Flatcar, is told at its first boot.
//!
//! The config is secret, because keys, password hashes and files are in it: `Debug` shows nothing of
//! it, and no answer of the API repeats it.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::{Secret, VolumeRef};

/// The most bytes that a config may have: the guest's kernel reads it from fw_cfg in small pieces, so
/// that one that is much larger would delay the boot. What is larger belongs behind a URL in `merge`.
pub const LARGEST: usize = 524_288;

/// An Ignition config: the JSON object itself, or its text. Kept and sent as text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Ignition(Secret);

impl Ignition {
    /// The config's text; secret.
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl From<String> for Ignition {
    fn from(text: String) -> Self {
        Ignition(text.into())
    }
}

impl<'de> Deserialize<'de> for Ignition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Ignition;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an Ignition config: a JSON object or its text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Ignition, E> {
                Ok(Ignition::from(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Ignition, A::Error> {
                let object = Map::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Ignition::from(Value::Object(object).to_string()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl PartialSchema for Ignition {
    fn schema() -> RefOr<Schema> {
        let of = |r#type| ObjectBuilder::new().schema_type(SchemaType::Type(r#type));
        let text = of(Type::String)
            .description(Some("The config's text."))
            .min_length(Some(2))
            .max_length(Some(LARGEST));
        let version = of(Type::String)
            .description(Some("The version of Ignition's specification."))
            .max_length(Some(64))
            .pattern(Some(r"^[23]\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$"));
        let own = of(Type::Object).property("version", version).required("version");
        let object = of(Type::Object)
            .description(Some("The config itself."))
            .property("ignition", own)
            .required("ignition");
        let either = OneOfBuilder::new()
            .description(Some(
                "An Ignition config of version 2 or 3: the JSON object itself, or its text.",
            ))
            .item(object)
            .item(text);
        RefOr::T(Schema::OneOf(either.build()))
    }
}

impl ToSchema for Ignition {}

/// What can be told of a VM's Ignition config: nothing that is in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IgnitionState {
    /// The version of Ignition's specification that the config follows, such as `3.4.0`.
    pub version: String,
    /// The file on the host that holds the config.
    pub file: Option<String>,
    /// The volume that it is; null if no known pool holds it.
    pub volume: Option<VolumeRef>,
    /// The disk that the guest reads it from, on machines without fw_cfg; null everywhere else.
    pub target: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_and_its_text_are_the_same_and_debug_shows_neither() {
        let object = json!({"ignition": {"version": "3.4.0"}, "passwd": {"users": ["sesame"]}});
        let read = |value: Value| serde_json::from_value::<Ignition>(value).unwrap();
        let (one, other) = (read(object.clone()), read(json!(object.to_string())));
        assert_eq!(one, other);
        assert!(!format!("{one:?}").contains("sesame"));
        // The wire is another matter.
        assert_eq!(serde_json::to_value(&one).unwrap(), json!(object.to_string()));
        let wrong = serde_json::from_value::<Ignition>(json!(3)).unwrap_err().to_string();
        assert!(wrong.contains("a JSON object or its text"), "{wrong}");
    }
}
