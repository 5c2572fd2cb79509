//! What a VM's firmware and TPM can be, in requests and in replies.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

/// The firmware of a VM to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS on x86; on other machines what they have of their own.
    Bios,
    Efi,
    /// The same as `efi`.
    Uefi,
}

impl Firmware {
    /// Whether it is UEFI, by either of its names.
    pub const fn is_efi(self) -> bool {
        match self {
            Firmware::Bios => false,
            Firmware::Efi | Firmware::Uefi => true,
        }
    }
}

/// A TPM to be: `true` for what suits the machine best, `false` for none, or which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TpmRequest {
    Simple(bool),
    Full(TpmChoice),
}

// By hand, because an untagged enum tells of a mistake within only that nothing matched.
impl<'de> Deserialize<'de> for TpmRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = TpmRequest;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or an object with model and version")
            }

            fn visit_bool<E>(self, wanted: bool) -> Result<TpmRequest, E> {
                Ok(TpmRequest::Simple(wanted))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TpmRequest, A::Error> {
                TpmChoice::deserialize(MapAccessDeserializer::new(map)).map(TpmRequest::Full)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Which TPM. It is emulated by swtpm on the host; its state belongs to the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TpmChoice {
    /// `tpm-crb` where the machine has it, else `tpm-tis`, if absent.
    pub model: Option<TpmModel>,
    /// `2.0` if absent.
    pub version: Option<TpmVersion>,
}

/// How the guest reaches its TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TpmModel {
    /// The command-response buffer of TPM 2.0, on x86.
    TpmCrb,
    /// The older interface, which more machines and guests have.
    TpmTis,
}

impl TpmModel {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            TpmModel::TpmCrb => "tpm-crb",
            TpmModel::TpmTis => "tpm-tis",
        }
    }
}

/// The version of the TPM's specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum TpmVersion {
    #[default]
    #[serde(rename = "2.0")]
    V2,
}

impl TpmVersion {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            TpmVersion::V2 => "2.0",
        }
    }
}

/// The TPM of a VM, as its definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tpm {
    /// `tpm-crb`, `tpm-tis`, `tpm-spapr`, …
    pub model: String,
    /// `emulator` (swtpm), `passthrough` or `external`.
    pub backend: String,
    /// `2.0` or `1.2`; null where the definition does not say.
    pub version: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_is_asked_for_with_a_word_or_by_what_it_is() {
        let read = |text: &str| serde_json::from_str::<TpmRequest>(text);
        assert_eq!(read("true").unwrap(), TpmRequest::Simple(true));
        assert_eq!(read("{}").unwrap(), TpmRequest::Full(TpmChoice::default()));
        let whole = read(r#"{"model": "tpm-tis", "version": "2.0"}"#).unwrap();
        let choice = TpmChoice { model: Some(TpmModel::TpmTis), version: Some(TpmVersion::V2) };
        assert_eq!(whole, TpmRequest::Full(choice));
        let wrong = |text: &str| read(text).unwrap_err().to_string();
        assert!(wrong(r#"{"model": "tpm-x"}"#).contains("tpm-crb"));
        assert!(wrong(r#"{"colour": 1}"#).contains("unknown field"));
        assert!(wrong(r#"{"version": "1.2"}"#).contains("2.0"));
        assert!(wrong("\"yes\"").contains("true, false or an object"));
    }
}
