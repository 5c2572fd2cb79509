//! The shapes of replies, for the OpenAPI document: envelopes, lists and errors.
//!
//! Replies are written from rendered bytes by [`super::reply`]; these types exist so that the
//! document says what they look like, and the API's tests hold every reply to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::status::CatalogueEntry;
use crate::model::{
    DefinitionVersion, DhcpLease, Event, Iso, Network, NetworkPort, OsVariant, Pool, Task,
    TaskLogLine, Template, Upload, Vm, Volume,
};

/// Always `success`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SuccessWord {
    Success,
}

/// Always `error`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ErrorWord {
    Error,
}

/// A successful reply.
#[derive(Serialize, ToSchema)]
pub struct Success<T: ToSchema> {
    pub status: SuccessWord,
    pub data: T,
}

/// What is wrong with one field of the request.
#[derive(Serialize, ToSchema)]
pub struct FieldProblem {
    /// The field's path, such as `storage.disks[0].size`.
    pub field: String,
    pub problem: String,
}

/// Machine-readable context of a failure. What there is depends on the code.
#[derive(Serialize, ToSchema)]
pub struct ErrorDetails {
    /// Every field that is wrong, for `INVALID_REQUEST` and `INVALID_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub fields: Option<Vec<FieldProblem>>,
}

/// What went wrong.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// Stable; the catalogue is `GET /api/v1/errors`.
    #[schema(pattern = "^[A-Z][A-Z_]*$", example = "VM_NOT_FOUND")]
    pub code: String,
    /// For people; it may be reworded.
    pub message: String,
    pub details: ErrorDetails,
    /// What to do.
    pub hint: String,
    /// The same as in the header `X-Request-Id`.
    pub request_id: String,
}

/// A failed reply.
#[derive(Serialize, ToSchema)]
pub struct ErrorReply {
    pub status: ErrorWord,
    pub error: ErrorBody,
}

/// A failed reply after RFC 9457, for clients that accept `application/problem+json`.
#[derive(Serialize, ToSchema)]
pub struct Problem {
    /// Where the code is explained.
    pub r#type: String,
    /// When this code is answered.
    pub title: String,
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// For people; it may be reworded.
    pub detail: String,
    /// Stable; the catalogue is `GET /api/v1/errors`.
    #[schema(pattern = "^[A-Z][A-Z_]*$", example = "VM_NOT_FOUND")]
    pub code: String,
    pub details: ErrorDetails,
    /// What to do.
    pub hint: String,
    /// The same as in the header `X-Request-Id`.
    pub request_id: String,
}

/// A task that goes on.
#[derive(Serialize, ToSchema)]
pub struct Accepted {
    pub task: Task,
}

macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident { $noun:ident: $item:ty })*) => {
        $(
            $(#[$doc])*
            #[derive(Serialize, ToSchema)]
            pub struct $name {
                pub $noun: Vec<$item>,
                /// How many this page holds.
                pub count: u64,
                /// How many there are with these filters.
                pub total: u64,
                /// The `cursor` of the next page; null on the last one.
                pub next: Option<String>,
            }
        )*
    };
}

lists! {
    /// A page of VMs.
    VmList { vms: Vm }
    /// The uploads under way.
    UploadList { uploads: Upload }
    /// A page of storage pools.
    PoolList { pools: Pool }
    /// A page of volumes.
    VolumeList { volumes: Volume }
    /// A page of networks.
    NetworkList { networks: Network }
    /// What a network's DHCP server has given out, by address.
    LeaseList { leases: DhcpLease }
    /// What is plugged into a network, by VM.
    PortList { ports: NetworkPort }
    /// A page of versions, newest first.
    DefinitionList { definitions: DefinitionVersion }
    /// A page of templates.
    TemplateList { templates: Template }
    /// A page of ISO images.
    IsoList { isos: Iso }
    /// A page of tasks, newest first.
    TaskList { tasks: Task }
    /// The log of a task, oldest line first.
    TaskLog { lines: TaskLogLine }
    /// The catalogue of error codes.
    ErrorCatalogue { errors: CatalogueEntry }
}

/// A page of operating systems.
#[derive(Serialize, ToSchema)]
pub struct OsVariantList {
    pub os_variants: Vec<OsVariant>,
    /// How many this page holds.
    pub count: u64,
    /// How many there are with these filters.
    pub total: u64,
    /// The `cursor` of the next page; null on the last one.
    pub next: Option<String>,
    /// The version of libosinfo's database; null if it does not say.
    pub database: Option<String>,
    /// What to do if there is no database on this host, else null.
    pub hint: Option<String>,
}

/// Event numbers, both ends included, that cannot be had any more: the client has to read the
/// objects anew.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct EventGap {
    pub from: u64,
    pub to: u64,
}

/// A page of events, oldest first.
#[derive(Serialize, ToSchema)]
pub struct EventList {
    pub events: Vec<Event>,
    /// How many this page holds.
    pub count: u64,
    /// How many events there have been: the number of the newest one.
    pub total: u64,
    /// The `since` of the next page. There is always a next one, if only it is waited for.
    pub next: String,
    /// What is missing before the first of them; null if nothing is.
    pub gap: Option<EventGap>,
}

/// A definition, for clients that accept JSON only.
#[derive(Serialize, ToSchema)]
pub struct XmlReply {
    /// libvirt's domain XML, without secrets.
    pub xml: String,
}

/// What this daemon is.
#[derive(Serialize, ToSchema)]
pub struct Version {
    #[schema(example = "vapor")]
    pub name: &'static str,
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// The version of the API.
    #[schema(example = "v1")]
    pub api: &'static str,
}

/// Whether reads and mutations can be served.
#[derive(Serialize, ToSchema)]
pub struct Ready {
    pub ready: bool,
}

/// The host and its hypervisor.
#[derive(Serialize, ToSchema)]
pub struct Host {
    /// The host's name.
    pub hostname: String,
    /// Vapor's version.
    pub version: &'static str,
    /// The host's clock.
    pub time: jiff::Timestamp,
    pub libvirt: crate::model::host::LibvirtStatus,
    pub vitals: crate::service::host::Vitals,
    /// What it is made of; null before libvirt has answered for the first time.
    pub hardware: Option<crate::model::host::HostHardware>,
    /// Why new VMs do not use KVM although libvirt may offer it; null where it works.
    pub kvm_obstacle: Option<String>,
    /// How many VMs there are; null before libvirt has answered for the first time.
    pub vms: Option<u64>,
}
