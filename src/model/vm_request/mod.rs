//! What clients send to create VMs. Limits stand in the schema and are checked by
//! `service/vm`, which turns each request into one validated specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{CloudInit, Ignition, LabelKey, LabelValue, ResourceName, TpmRequest, VmName};

/// Words of an enumeration, as the API and libvirt both say them. A word is a `tt`: a derive sees no
/// literal in what a `literal` matched.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($variant:ident = $word:tt),* })*) => {$(
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
        )]
        pub enum $name {
            $(#[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word in the API and in domain XML.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// What this word stands for, if it is one of them.
            pub fn of(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$variant),)* _ => None }
            }
        }
    )*};
}

mod cpu;
mod disk;
mod hardware;
mod nic;
mod os;

pub use cpu::{
    CpuFeature, CpuMode, CpuPin, CpuRequest, CpuTopology, FeaturePolicy, MemoryRequest, NumaRequest,
};
pub use disk::{
    DiskAction, DiskBus, DiskCache, DiskDiscard, DiskFormat, DiskIo, DiskRequest, StorageRequest,
};
pub use hardware::{
    ClockOffset, ClockRequest, DevicesRequest, FilesystemRequest, GraphicsRequest, GraphicsType,
    PciAddress, SoundModel, VsockRequest, WatchdogAction, WatchdogModel, WatchdogRequest,
};
pub use nic::{Bandwidth, DirectMode, FlatNetwork, NicRequest};
pub use os::{BootDevice, DirectBoot, OsRequest};

/// The two bodies of creation. What both take is said once: each field is optional, and absent is
/// the same as null.
macro_rules! bodies {
    ($($(#[$meta:meta])* $field:ident: $type:ty,)*) => {
        /// The body of `POST V`: the flat form, the full form, or both where they do not speak of the
        /// same thing (`disk_size` with `storage`, `network` with `networks` contradict each other).
        #[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct CreateVm {
            #[schema(required)]
            pub name: Option<VmName>,
            /// MiB.
            #[schema(required, minimum = 16, maximum = 67108864)]
            pub memory: Option<u64>,
            #[schema(required, minimum = 1, maximum = 1024)]
            pub vcpus: Option<u32>,
            /// Flat form: GiB of a new qcow2 disk in `pool`.
            #[schema(minimum = 1, maximum = 65536)]
            pub disk_size: Option<u64>,
            /// Flat form: the pool of the disk; `default` if absent.
            pub pool: Option<ResourceName>,
            /// Flat form: the kind of guest, a word such as `linux` or `windows`.
            #[schema(max_length = 64, pattern = "^[A-Za-z0-9_.-]*$")]
            pub os_type: Option<String>,
            /// Flat form: one NIC.
            pub network: Option<FlatNetwork>,
            $($(#[$meta])* pub $field: Option<$type>,)*
        }

        /// The body of `POST V/create-enhanced`: the full form alone.
        #[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct CreateVmFull {
            pub name: VmName,
            /// MiB.
            #[schema(minimum = 16, maximum = 67108864)]
            pub memory: u64,
            #[schema(minimum = 1, maximum = 1024)]
            pub vcpus: u32,
            $($(#[$meta])* #[serde(default)] pub $field: Option<$type>,)*
        }

        impl From<CreateVmFull> for CreateVm {
            fn from(full: CreateVmFull) -> Self {
                CreateVm {
                    name: Some(full.name),
                    memory: Some(full.memory),
                    vcpus: Some(full.vcpus),
                    $($field: full.$field,)*
                    ..CreateVm::default()
                }
            }
        }
    };
}

bodies! {
    /// One line for people.
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1F\x7F\uFFFE\uFFFF]*$")]
    title: String,
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    description: String,
    /// MiB; the same as `memory` if absent.
    #[schema(minimum = 16, maximum = 67108864)]
    max_memory: u64,
    #[schema(minimum = 1, maximum = 1024)]
    max_vcpus: u32,
    os: OsRequest,
    storage: StorageRequest,
    #[schema(max_items = 16)]
    networks: Vec<NicRequest>,
    #[schema(max_items = 4)]
    graphics: Vec<GraphicsRequest>,
    cpu: CpuRequest,
    memory_options: MemoryRequest,
    devices: DevicesRequest,
    clock: ClockRequest,
    /// A `<domain>` whose parts are merged into the definition at the end; see docs/creating.md.
    #[schema(max_length = 262144)]
    custom_xml: String,
    /// An emulated TPM: `true`, or which.
    tpm: TpmRequest,
    labels: BTreeMap<LabelKey, LabelValue>,
    /// Start with the host.
    autostart: bool,
    /// Start as soon as it is made.
    start: bool,
    /// What a guest with cloud-init is told, by a disk that comes and goes with the VM.
    cloud_init: CloudInit,
    /// What a guest with Ignition is told at its first boot; contradicts `cloud_init`.
    ignition: Ignition,
    /// Answers 422 `NOT_SUPPORTED` for now, whatever it holds.
    #[schema(value_type = Option<Object>)]
    template: serde_json::Value,
}
