//! What a guest with Ignition is told: from a request to a config that may be handed to a guest.
//!
//! Vapor reads as much of it as tells a config from something else: it is a JSON object, and of a
//! version of the specification that Ignition knows by now or may know one day. What else is in it
//! is between whoever wrote it and the guest. Nothing here touches libvirt, and nothing shows it.

use std::fmt;

use serde_json::Value;

use crate::error::{Error, Kind, Result};
use crate::model::Ignition;
use crate::model::ignition::LARGEST;

const FIELD: &str = "ignition";

/// A config that is one; secret.
#[derive(Clone)]
pub struct Config {
    text: String,
    version: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({}, …)", self.version)
    }
}

impl Config {
    /// The version of Ignition's specification that it follows.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The config as it was given.
    pub fn bytes(&self) -> Vec<u8> {
        self.text.clone().into_bytes()
    }

    /// The same filled up to whole sectors, for a disk: blanks after a JSON text mean nothing.
    pub fn sectors(&self) -> Vec<u8> {
        const SECTOR: usize = 512;
        let mut bytes = self.bytes();
        bytes.resize(bytes.len().div_ceil(SECTOR) * SECTOR, b'\n');
        bytes
    }
}

/// Checks a config.
///
/// # Errors
/// 400 for what is too long, no JSON object, or without a version of 2.x or 3.x; with line and column
/// where it cannot be read.
pub fn check(request: &Ignition) -> Result<Config> {
    let text = request.reveal();
    if text.len() > LARGEST {
        return Err(Error::field(FIELD, format!("has more than {LARGEST} bytes")).with_hint(
            "put the larger part behind a URL, and name that in ignition.config.merge",
        ));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| {
        // What is wrong is told by its kind alone: the text around it may be secret.
        let problem = if error.is_eof() { "ends too early" } else { "is no JSON" };
        Error::field(FIELD, problem)
            .with_detail("line", error.line())
            .with_detail("column", error.column())
            .with_hint("a Butane file is made into an Ignition config by `butane`")
    })?;
    let Value::Object(config) = &value else {
        return Err(Error::field(FIELD, "is no JSON object"));
    };
    let version = config.get("ignition").and_then(|own| own.get("version"));
    match version.and_then(Value::as_str) {
        Some(version) if is_known(version) => {
            Ok(Config { text: text.to_owned(), version: version.to_owned() })
        }
        Some(_) => {
            Err(Error::field("ignition.ignition.version", "is not of the kind 2.x.y or 3.x.y"))
        }
        None if config.contains_key("ignitionVersion") => {
            Err(Error::field(FIELD, "follows version 1 of Ignition's specification")
                .with_hint("say it in version 3"))
        }
        None => Err(Error::field("ignition.ignition.version", "is required, and a text")),
    }
}

/// `2.x.y` or `3.x.y`, maybe with `-experimental`.
fn is_known(version: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let (numbers, suffix) = version.split_once('-').unwrap_or((version, "x"));
    let parts: Vec<&str> = numbers.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit());
    version.len() <= 64
        && parts.len() == 3
        && matches!(parts[0], "2" | "3")
        && parts.iter().all(number)
        && !suffix.is_empty()
        && suffix.chars().all(plain)
}

/// How a machine hands a config to its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// QEMU's firmware configuration device, of a file.
    FwCfg,
    /// A virtio disk with the serial number that Ignition looks for.
    Disk,
}

/// Where Ignition looks on this architecture.
///
/// # Errors
/// [`Kind::NotSupported`] where it looks nowhere.
pub fn way(architecture: &str) -> Result<Way> {
    match architecture {
        "x86_64" | "i686" | "aarch64" | "armv7l" | "riscv64" | "loongarch64" => Ok(Way::FwCfg),
        "s390x" | "ppc64" | "ppc64le" => Ok(Way::Disk),
        other => Err(Error::new(
            Kind::NotSupported,
            format!("guests of the architecture {other:?} are told nothing by Ignition"),
        )
        .with_field(FIELD, "is possible on x86, ARM, RISC-V, LoongArch, POWER and s390x")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str) -> String {
        let error = check(&Ignition::from(text.to_owned())).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidRequest, "{text}");
        error.details()["fields"][0]["field"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_config_of_version_2_or_3_is_taken_as_it_is() {
        for version in ["2.0.0", "2.3.0", "3.0.0", "3.4.0", "3.5.0-experimental", "3.99.1"] {
            let text = format!(" {{\"ignition\": {{\"version\": \"{version}\"}}, \"x\": [1]}}\n");
            let config = check(&Ignition::from(text.clone())).unwrap();
            assert_eq!((config.version(), config.bytes()), (version, text.clone().into_bytes()));
            let sectors = config.sectors();
            assert_eq!(sectors.len(), 512);
            assert_eq!(String::from_utf8(sectors).unwrap().trim_end(), text.trim_end());
            assert!(!format!("{config:?}").contains("[1]"));
        }
    }

    #[test]
    fn what_is_no_config_names_its_field() {
        for text in ["", "x", "[]", "\"a\"", "variant: fcos\nversion: 1.5.0\n", "{", "{} {}"] {
            assert_eq!(field(text), "ignition", "{text}");
        }
        assert_eq!(field(r#"{"ignitionVersion": 1}"#), "ignition");
        for version in ["1.0.0", "4.0.0", "3", "3.1", "3.1.x", "3..1", "", "3.1.0-", "3.0.0 "] {
            let text = format!("{{\"ignition\": {{\"version\": \"{version}\"}}}}");
            assert_eq!(field(&text), "ignition.ignition.version", "{version}");
        }
        for text in ["{}", r#"{"ignition": 3}"#, r#"{"ignition": {"version": 3}}"#] {
            assert_eq!(field(text), "ignition.ignition.version", "{text}");
        }
        let long = format!("{{\"ignition\": {{\"version\": \"3.0.0\"}}}}{}", " ".repeat(LARGEST));
        assert_eq!(field(&long), "ignition");
        let error = check(&Ignition::from("{\n \"sesame\": sesame}".to_owned())).unwrap_err();
        assert_eq!(error.details()["line"], 2);
        assert!(!format!("{error:?} {error}").contains("sesame"));
    }

    #[test]
    fn each_machine_hands_it_over_in_its_own_way() {
        assert_eq!(way("x86_64").unwrap(), Way::FwCfg);
        assert_eq!(way("s390x").unwrap(), Way::Disk);
        assert_eq!(way("m68k").unwrap_err().kind(), Kind::NotSupported);
    }
}
