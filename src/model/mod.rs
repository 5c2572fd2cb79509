//! Plain data in the user's words, shared by every room, by the API and by the command line.
//!
//! Nothing here does I/O. Types that clients send refuse unknown fields and carry their limits in
//! their schema; types that clients receive never hold a null list.

pub mod action;
pub mod cloud_init;
pub mod definition;
pub mod event;
pub mod firmware;
pub mod host;
pub mod ignition;
pub mod iso;
pub mod name;
pub mod network;
pub mod network_request;
pub mod nic;
pub mod os_variant;
pub mod plan;
pub mod pool;
pub mod principal;
pub mod runtime;
pub mod secret;
pub mod subnet;
pub mod task;
pub mod template;
pub mod upload;
pub mod vm;
pub mod vm_clone;
pub mod vm_request;
pub mod vm_update;
pub mod volume;
pub mod volume_request;

pub use action::{ActionRequest, VmAction};
pub use cloud_init::{
    CloudInit, CloudInitState, CloudInterface, CloudNetwork, CloudUser, Command, WriteFile,
};
pub use definition::{DefinitionContent, DefinitionDiff, DefinitionVersion};
pub use event::Event;
pub use firmware::{Firmware, Tpm, TpmRequest};
pub use ignition::{Ignition, IgnitionState};
pub use iso::{
    ChecksumStatus, Iso, IsoChecksum, IsoHeader, IsoOs, IsoState, MediaAction, MediaRequest,
    RegisterIso,
};
pub use name::{DeviceName, LabelKey, LabelValue, NetworkName, ResourceName, VmName, VolumeName};
pub use network::{DhcpLease, DhcpRange, Network, NetworkForward, NetworkPort};
pub use network_request::{CreateNetwork, UpdateNetwork};
pub use nic::{Nic, NicSource, NicSourceType};
pub use os_variant::{OsVariant, ReleaseStatus};
pub use plan::{Change, Effect, Plan};
pub use pool::{CreatePool, Pool, PoolCapacity, PoolState, PoolType, UpdatePool};
pub use principal::Principal;
pub use runtime::{GuestAddress, GuestAgentState, RuntimeDetails};
pub use secret::Secret;
pub use subnet::Subnet;
pub use task::{Progress, Subject, SubjectType, Task, TaskLogLine, TaskStatus};
pub use template::{
    CreateTemplate, FromTemplate, MakeTemplate, Template, TemplateDisk, TemplateProblem,
    TemplateSettings, UpdateTemplate,
};
pub use upload::{Upload, UploadPurpose, Uploaded};
pub use vm::{
    Device, Disk, DiskDevice, Graphics, Pending, PendingChange, Stale, Vm, VmDirectBoot, VmOs,
    VmState,
};
pub use vm_clone::{CloneDisk, CloneVm, CloneVmFrom};
pub use vm_request::{
    CreateVm, CreateVmFull, DiskAction, DiskRequest, FlatNetwork, GraphicsRequest, GraphicsType,
    NicRequest, OsRequest, StorageRequest,
};
pub use vm_update::UpdateVm;
pub use volume::{BackingFile, Volume, VolumePermissions, VolumeRef, VolumeUse};
pub use volume_request::{
    CloneVolume, CreateVolume, NewBacking, Preallocation, ResizeVolume, WipeAlgorithm, WipeVolume,
};
