//! ISO images: the library of installation and other media.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::VolumeRef;

/// What the descriptor of an optical file system says (ECMA-119, section 8.4). Texts are null where
/// they are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IsoHeader {
    /// `iso9660` or `udf`.
    pub format: String,
    pub volume_id: Option<String>,
    pub system_id: Option<String>,
    pub publisher: Option<String>,
    pub application: Option<String>,
    /// The size of the file system; the image may be larger.
    pub volume_size_bytes: Option<u64>,
    /// Whether it has an El Torito boot record.
    pub bootable: bool,
}

/// Whether the volume of a registered image is as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum IsoState {
    #[default]
    Available,
    /// The volume has another size than when it was registered.
    Changed,
    /// The volume is gone, or its pool is gone or inactive.
    Missing,
}

/// Where the computation of a checksum stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumStatus {
    /// It will be computed, or is being computed now.
    #[default]
    Pending,
    Done,
    /// It could not be computed; the task `iso.checksum` says why.
    Failed,
}

impl ChecksumStatus {
    /// The word in the API and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChecksumStatus::Pending => "pending",
            ChecksumStatus::Done => "done",
            ChecksumStatus::Failed => "failed",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [ChecksumStatus::Pending, ChecksumStatus::Done, ChecksumStatus::Failed]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

/// The checksum of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IsoChecksum {
    pub status: ChecksumStatus,
    /// SHA-256, 64 hexadecimal digits; null until it is computed.
    pub sha256: Option<String>,
}

/// The operating system on an image, as libosinfo's database knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IsoOs {
    /// libosinfo's id.
    pub id: String,
    pub short_id: String,
    pub name: String,
    /// `all` where the database names none.
    pub architecture: String,
    /// Whether it runs without being installed.
    pub live: bool,
}

/// One registered image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Iso {
    pub id: Uuid,
    pub name: String,
    /// Free text; empty if there is none.
    pub description: String,
    pub pool: String,
    pub volume: String,
    pub state: IsoState,
    pub size_bytes: u64,
    /// The operating system on it: as whoever registered it said, else as recognised. libosinfo's
    /// short id.
    pub os_variant: Option<String>,
    /// What was recognised by the header.
    pub detected_os: Option<IsoOs>,
    pub header: IsoHeader,
    pub checksum: IsoChecksum,
    /// The names of the VMs that have it in a drive, now or with their next boot.
    pub inserted_in: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Grows with every change of what is registered.
    pub generation: u64,
}

/// The body of `POST …/isos`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterIso {
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    pub pool: String,
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    pub volume: String,
    /// The volume's name if absent.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F/]+$")]
    pub name: Option<String>,
    /// libosinfo's short id; recognised by the image itself if absent.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 128, pattern = r"^[A-Za-z0-9_.+-]+$")]
    pub os_variant: Option<String>,
    #[serde(default)]
    #[schema(max_length = 8192)]
    pub description: Option<String>,
}

/// What is to be done with a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MediaAction {
    Insert,
    Eject,
}

/// The body of `POST …/{id}/media`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaRequest {
    pub action: MediaAction,
    /// The id or the name of a registered image. This or `volume` is to be inserted.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F/]+$")]
    pub iso: Option<String>,
    #[serde(default)]
    pub volume: Option<VolumeRef>,
    /// The drive, such as `sda`. If absent: to insert, the first empty one, or the only one; to
    /// eject, the only one with a medium.
    #[serde(default)]
    #[schema(min_length = 1, max_length = 16, pattern = "^[a-z0-9]+$", example = "sda")]
    pub target: Option<String>,
    /// Open the tray even if the guest has locked it.
    #[serde(default)]
    pub force: bool,
}
