//! Versions of a VM's definition.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// One version of a VM's stored definition, the one that its next boot uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionVersion {
    /// Counted per VM from 1; a number is never given twice.
    #[schema(minimum = 1, maximum = 9007199254740991_u64)]
    pub number: u64,
    /// When Vapor saw it.
    pub at: Timestamp,
    /// Who asked for it; null if it was done outside of Vapor, by `virsh` or another client of
    /// libvirt.
    pub by: Option<String>,
    /// The task that made it; null as above.
    pub task: Option<Uuid>,
    /// That task's kind, such as `vm.update`; null as above.
    pub operation: Option<String>,
    /// The length of the XML.
    pub bytes: u64,
}

/// One version with its XML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionContent {
    #[serde(flatten)]
    pub version: DefinitionVersion,
    /// libvirt's domain XML, without secrets.
    pub xml: String,
}

/// What differs between two versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefinitionDiff {
    /// The version that the difference is seen from.
    #[schema(minimum = 1, maximum = 9007199254740991_u64)]
    pub from: u64,
    /// The other version; null for the present definition.
    #[schema(minimum = 1, maximum = 9007199254740991_u64)]
    pub to: Option<u64>,
    /// A unified diff with three lines of context; empty if both are the same.
    pub diff: String,
}
