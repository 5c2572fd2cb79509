//! Validated names: what a client may call things, so that libvirt and a file name can carry it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Kind, Result};

/// The pattern of names of VMs, pools, networks and volumes that Vapor makes.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$";

fn check_name(what: &str, text: &str, max: usize) -> Result<()> {
    let shown: String = text.chars().take(40).collect();
    let problem = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > max {
        format!("is {} bytes long, and at most {max} are allowed", text.len())
    } else if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
        "does not start with a letter, a digit or '_'".to_owned()
    } else if let Some(bad) =
        text.chars().find(|c| !(c.is_ascii_alphanumeric() || "_.+-".contains(*c)))
    {
        format!("holds {bad:?}")
    } else {
        return Ok(());
    };
    Err(Error::new(Kind::InvalidName, format!("{what} {shown:?} {problem}"))
        .with_field(what, problem))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:tt, $pattern:tt, $example:tt) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = $pattern, min_length = 1, max_length = $max, example = $example)]
        pub struct $name(String);

        impl $name {
            /// The text, known to be valid.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                check_name($what, &text, $max)?;
                Ok(Self(text))
            }
        }

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name that a new VM may take: also a file name, a host name's stem and a shell word.
    VmName, "name", 128, "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$", "web1"
}
name_type! {
    /// The name of a pool, a volume or a network. What exists may be called otherwise; what a
    /// request refers to is looked up, so that an unusual name simply is not found.
    ResourceName, "name", 128, "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$", "default"
}
name_type! {
    /// A device's name on the host, such as a bridge (at most 15 bytes, the kernel's limit).
    DeviceName, "device", 15, "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,14}$", "br0"
}
name_type! {
    /// A label's key.
    LabelKey, "label", 63, "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}$", "tier"
}

/// The name of a new volume: a file name that people can read, and not a path or markup. Volumes of
/// logical pools are narrower still, which only their pool knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = r"^[^\x00-\x1F\x7F-\x9F/<>&\u2028\u2029]+$", min_length = 1, max_length = 255, example = "web1.qcow2")]
pub struct VolumeName(String);

impl VolumeName {
    /// The text, known to be valid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VolumeName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        let bad = |c: &char| c.is_control() || "/<>&\u{2028}\u{2029}".contains(*c);
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > 255 {
            format!("is {} bytes long, and a file name has at most 255", text.len())
        } else if matches!(text.as_str(), "." | "..") {
            "is a folder".to_owned()
        } else if text == "uploads" {
            "is the word for uploads in paths".to_owned()
        } else if text.trim() != text {
            "begins or ends with white space".to_owned()
        } else if let Some(bad) = text.chars().find(bad) {
            format!("holds {bad:?}")
        } else if !is_xml_text(&text) {
            "holds a character that XML cannot carry".to_owned()
        } else {
            return Ok(Self(text));
        };
        let shown: String = text.chars().take(40).collect();
        Err(Error::new(Kind::InvalidName, format!("the volume name {shown:?} {problem}"))
            .with_hint("any file name without '/', '<', '>', '&' and control characters will do")
            .with_field("name", problem))
    }
}

impl From<VolumeName> for String {
    fn from(name: VolumeName) -> String {
        name.0
    }
}

/// The name that a new network may take: whatever libvirt can carry. It becomes part of file names,
/// of libvirt's and of its DNS server's, so that it holds no slash, and of that server's
/// configuration, so that it holds none of the characters which have a meaning there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, min_length = 1, max_length = 128, pattern = r##"^[^\x00-\x1F\x7F-\x9F/\\"#]+$"##, example = "lab")]
pub struct NetworkName(String);

impl NetworkName {
    /// The text, known to be valid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NetworkName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        let shown: String = text.chars().take(40).collect();
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > 128 {
            format!("is {} bytes long, and at most 128 are allowed", text.len())
        } else if text == "." || text == ".." {
            "is a path".to_owned()
        } else if text.trim() != text {
            "begins or ends with white space".to_owned()
        } else if let Some(bad) = text.chars().find(|c| {
            c.is_control() || "/\\\"#".contains(*c) || !is_xml_text(c.encode_utf8(&mut [0; 4]))
        }) {
            format!("holds {bad:?}")
        } else {
            return Ok(NetworkName(text));
        };
        Err(Error::new(Kind::InvalidName, format!("name {shown:?} {problem}"))
            .with_field("name", problem)
            .with_hint(
                "use anything but control characters, '/', '\\', '#' and '\"', at most 128 bytes",
            ))
    }
}

impl std::str::FromStr for NetworkName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::try_from(text.to_owned())
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> String {
        name.0
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A label's value: at most 255 printable characters, possibly none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, max_length = 255, pattern = r"^[\x20-\x7E]*$", example = "web")]
pub struct LabelValue(String);

impl LabelValue {
    /// The text, known to be valid.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LabelValue {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        if text.len() > 255 {
            return Err(Error::field("labels", "a value has more than 255 characters"));
        }
        if let Some(bad) = text.chars().find(|c| !(' '..='~').contains(c)) {
            return Err(Error::field("labels", format!("a value holds {bad:?}")));
        }
        Ok(Self(text))
    }
}

impl From<LabelValue> for String {
    fn from(value: LabelValue) -> String {
        value.0
    }
}

/// Whether libvirt's XML can carry this text: XML 1.0 has no place for most control characters.
pub fn is_xml_text(text: &str) -> bool {
    text.chars().all(|c| {
        matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{FFFE}' | '\u{FFFF}'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_libvirt_and_a_file_name_can_carry_are_accepted() {
        for good in ["web1", "_x", "0", "a.b-c+d_e", &"a".repeat(128)] {
            assert_eq!(good.parse::<VmName>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn names_that_could_be_paths_markup_or_options_are_refused() {
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a\0b", "<a>", "ä", "🦀", &"a".repeat(129)]
        {
            let error = bad.parse::<VmName>().unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidName, "{bad:?}");
        }
    }

    #[test]
    fn a_network_may_be_called_what_libvirt_can_carry() {
        for good in ["lab", "das Netz", "сеть", "<b>&amp;'", "-x", "a.b", "..."] {
            assert_eq!(good.parse::<NetworkName>().unwrap().as_str(), good);
        }
        let long = "é".repeat(65);
        for bad in [
            "", ".", "..", "../x", "a/b", " a", "a ", "a\nb", "a\0", "a\"b", "a #b", "a\\b",
            "\u{FFFE}", &long,
        ] {
            assert_eq!(
                bad.parse::<NetworkName>().unwrap_err().kind(),
                Kind::InvalidName,
                "{bad:?}"
            );
        }
    }

    #[test]
    fn volumes_may_be_called_what_a_file_may_be_called() {
        for good in ["a b.c.qcow2", "ünï🦀.raw", ".hidden", "-x", "x,y:z", "q'\"q", "back\\slash"]
        {
            assert_eq!(VolumeName::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        let long = "ä".repeat(128);
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "/etc/passwd",
            "<b>",
            "a&amp;b",
            "a\0b",
            "a\nb",
            " a",
            "a ",
            "uploads",
            "\u{fffe}",
            &long,
        ] {
            let error = VolumeName::try_from(bad.to_owned()).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidName, "{bad:?}");
            assert_eq!(error.details()["fields"][0]["field"], "name", "{bad:?}");
        }
    }

    #[test]
    fn a_long_bad_name_is_not_repeated_whole() {
        let error = "x".repeat(10_000).parse::<VmName>().unwrap_err();
        assert!(error.message().len() < 200);
    }
}
