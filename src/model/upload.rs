//! Uploads: what is being received, and what became of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Volume;

/// What an upload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UploadPurpose {
    /// To be a volume.
    Volume,
    /// To be a volume that the ISO library knows.
    Iso,
}

impl UploadPurpose {
    /// The word in the API and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            UploadPurpose::Volume => "volume",
            UploadPurpose::Iso => "iso",
        }
    }

    /// The purpose with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [UploadPurpose::Volume, UploadPurpose::Iso].into_iter().find(|known| known.as_str() == word)
    }
}

/// One upload under way, by the tus protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Upload {
    /// Also the id of its task.
    pub id: Uuid,
    pub pool: String,
    /// The volume that it writes into. Nobody else may use that before the upload has ended.
    pub volume: String,
    pub purpose: UploadPurpose,
    /// Bytes that were announced.
    pub length_bytes: u64,
    /// Bytes that have arrived and are written.
    pub offset_bytes: u64,
    pub created_at: Timestamp,
    /// When it is given up unless more arrives; its volume is deleted then.
    pub expires_at: Timestamp,
}

/// What an upload made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Uploaded {
    pub volume: Volume,
    /// Bytes that were received.
    pub size_bytes: u64,
    /// The SHA-256 of what was received, as 64 hexadecimal digits: where it had to be some or was
    /// asked for, of every resumable upload and of every ISO.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub sha256: Option<String>,
    /// `raw`, `qcow2`, `vmdk`, `vdi`, `vhdx`, `vpc` or `iso`: what the content is.
    pub format: String,
    /// The entry of the ISO library, if the upload was for that.
    pub iso: Option<Uuid>,
}
