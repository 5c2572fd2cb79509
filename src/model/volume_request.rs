//! What clients ask to be done with volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::name::VolumeName;
use super::vm_request::DiskFormat;

/// The largest volume: more than any pool of one host holds, and what every format can describe.
pub const MAX_CAPACITY: u64 = 1 << 52;

/// How much of a new volume's room is taken at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preallocation {
    /// None: it grows as it is written.
    Off,
    /// The tables of a qcow2 image, so that it need not grow them later.
    Metadata,
    /// All of it, reserved without being written.
    Falloc,
    /// All of it, written.
    Full,
}

/// The base of a linked clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBacking {
    #[schema(min_length = 1, max_length = 255)]
    pub pool: String,
    #[schema(min_length = 1, max_length = 255)]
    pub volume: String,
    /// The base's format if libvirt tells another one, which only raw images can be mistaken for.
    #[serde(default)]
    pub format: Option<DiskFormat>,
}

/// The body of `POST …/volumes`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    pub name: VolumeName,
    /// GiB; this or `capacity_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65536)]
    pub size: Option<u64>,
    /// Bytes; this or `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4503599627370496_u64)]
    pub capacity_bytes: Option<u64>,
    /// `qcow2` if absent and the pool holds files, else `raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// `off` if absent; a logical pool's volumes always have all their room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preallocation: Option<Preallocation>,
    /// What is not written to the new volume is read from this one, which must not change any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<NewBacking>,
}

/// The body of `POST …/volumes/{volume}/resize`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// GiB; this or `capacity_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65536)]
    pub size: Option<u64>,
    /// Bytes; this or `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4503599627370496_u64)]
    pub capacity_bytes: Option<u64>,
    /// Make it smaller: what lies beyond the new end is lost.
    #[serde(default)]
    pub shrink: bool,
}

/// The body of `POST …/volumes/{volume}/clone`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneVolume {
    pub name: VolumeName,
    /// The pool of the new volume; that of the source if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub pool: Option<String>,
    /// The source's if absent, where the new pool can hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Copy nothing: read from the source what is not written to the new volume.
    #[serde(default)]
    pub linked: bool,
}

/// How a volume is overwritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WipeAlgorithm {
    #[default]
    Zero,
    Nnsa,
    Dod,
    Bsi,
    Gutmann,
    Schneier,
    Pfitzner7,
    Pfitzner33,
    Random,
    /// The storage is told that the content is not needed any more.
    Trim,
}

impl WipeAlgorithm {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            WipeAlgorithm::Zero => "zero",
            WipeAlgorithm::Nnsa => "nnsa",
            WipeAlgorithm::Dod => "dod",
            WipeAlgorithm::Bsi => "bsi",
            WipeAlgorithm::Gutmann => "gutmann",
            WipeAlgorithm::Schneier => "schneier",
            WipeAlgorithm::Pfitzner7 => "pfitzner7",
            WipeAlgorithm::Pfitzner33 => "pfitzner33",
            WipeAlgorithm::Random => "random",
            WipeAlgorithm::Trim => "trim",
        }
    }
}

/// The body of `POST …/volumes/{volume}/wipe`.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WipeVolume {
    /// `zero` if absent.
    #[serde(default)]
    pub algorithm: WipeAlgorithm,
}
