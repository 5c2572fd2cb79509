//! Plain data in the user's words, shared by every room, by the API and by the command line.
//!
//! Nothing here does I/O. Types that clients send refuse unknown fields and carry their limits in
//! their schema; types that clients receive never hold a null list.

pub mod action;
pub mod event;
pub mod host;
pub mod name;
pub mod network;
pub mod nic;
pub mod plan;
pub mod principal;
pub mod runtime;
pub mod storage;
pub mod task;
pub mod vm;
pub mod vm_request;

pub use action::{ActionRequest, VmAction};
pub use event::Event;
pub use name::{DeviceName, LabelKey, LabelValue, ResourceName, VmName};
pub use network::{DhcpRange, Network, NetworkForward};
pub use nic::{Nic, NicSource, NicSourceType};
pub use plan::{Change, Effect, Plan};
pub use principal::Principal;
pub use runtime::{GuestAddress, GuestAgentState, RuntimeDetails};
pub use storage::{Pool, PoolState, Volume, VolumeRef};
pub use task::{Progress, Subject, SubjectType, Task, TaskLogLine, TaskStatus};
pub use vm::{
    Device, Disk, DiskDevice, Graphics, Pending, PendingChange, Stale, Vm, VmOs, VmState,
};
pub use vm_request::{
    CreateVm, CreateVmFull, DiskAction, DiskRequest, FlatNetwork, GraphicsRequest, GraphicsType,
    NicRequest, OsRequest, StorageRequest, UpdateVm,
};
