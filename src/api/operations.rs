//! What each operation can answer beside success: the kinds of its failures, from which the
//! document's statuses follow, and the traits that decide which headers it takes.

use crate::authz::{Action, Effect};
use crate::error::Kind;

/// What any operation can answer.
const ANY: &[Kind] = &[Kind::InvalidRequest, Kind::Forbidden, Kind::NotAcceptable, Kind::Internal];
/// What anything served from the picture of the host can answer before there is one.
const PICTURE: &[Kind] = &[Kind::LibvirtUnavailable];
/// What anything served from the database can answer.
const DATABASE: &[Kind] = &[Kind::DatabaseUnavailable];
/// What any mutation can answer.
const CHANGE: &[Kind] = &[
    Kind::InvalidName,
    Kind::RequestTimeout,
    Kind::PayloadTooLarge,
    Kind::UnsupportedMediaType,
    Kind::Cancelled,
    Kind::Interrupted,
    Kind::LibvirtRefused,
    Kind::IdempotencyKeyReused,
    Kind::TooManyRequests,
    Kind::LibvirtUnavailable,
    Kind::DatabaseUnavailable,
    Kind::ShuttingDown,
    Kind::LibvirtTimeout,
];
/// What any mutation of an existing VM can answer.
const VM_CHANGE: &[Kind] =
    &[Kind::VmNotFound, Kind::VmBusy, Kind::VmWrongState, Kind::PreconditionFailed];
const VM_CREATE: &[Kind] = &[
    Kind::VmAlreadyExists,
    Kind::VmBusy,
    Kind::VolumeAlreadyExists,
    Kind::VolumeInUse,
    Kind::PoolInactive,
    Kind::NetworkInactive,
    Kind::PoolNotFound,
    Kind::VolumeNotFound,
    Kind::NetworkNotFound,
    Kind::NotSupported,
    Kind::Impossible,
    Kind::InvalidDefinition,
    Kind::InsufficientSpace,
];
const VM_UPDATE: &[Kind] =
    &[Kind::VmTransient, Kind::NotSupported, Kind::Impossible, Kind::InvalidDefinition];

/// Every kind that `action` can be answered with, sorted, each once.
pub fn kinds(action: Action) -> Vec<Kind> {
    let own: &[&[Kind]] = match action {
        Action::ListVms | Action::ListPools | Action::ListVolumes | Action::ListNetworks => {
            &[PICTURE, &[Kind::InvalidCursor]]
        }
        Action::GetVm | Action::GetVmXml => &[PICTURE, &[Kind::VmNotFound]],
        Action::CreateVm | Action::CreateVmEnhanced => &[VM_CREATE],
        Action::ReplaceVm | Action::UpdateVm => &[VM_CHANGE, VM_UPDATE],
        Action::DeleteVm => &[
            VM_CHANGE,
            &[Kind::VmRunning, Kind::VmHasSnapshots, Kind::VmHasSavedState, Kind::VolumeInUse],
        ],
        Action::ActOnVm => &[
            VM_CHANGE,
            &[
                Kind::VmAlreadyRunning,
                Kind::VmAlreadyStopped,
                Kind::VmAlreadyPaused,
                Kind::VmRunning,
                Kind::VmNotRunning,
                Kind::VmTransient,
                Kind::VmHasSavedState,
                Kind::VmHasNoSavedState,
                Kind::NetworkInactive,
                Kind::NotSupported,
                Kind::Impossible,
                Kind::GuestAgentUnavailable,
                Kind::GuestTimeout,
            ],
        ],
        Action::ReplaceVmXml => &[VM_CHANGE, VM_UPDATE],
        Action::GetPool => &[PICTURE, &[Kind::PoolNotFound]],
        Action::ListPoolVolumes => &[PICTURE, &[Kind::PoolNotFound, Kind::InvalidCursor]],
        Action::GetVolume => &[PICTURE, &[Kind::PoolNotFound, Kind::VolumeNotFound]],
        Action::CreateVolume => &[&[
            Kind::PoolNotFound,
            Kind::PoolInactive,
            Kind::VolumeAlreadyExists,
            Kind::VmBusy,
            Kind::NotSupported,
            Kind::InvalidDefinition,
            Kind::InsufficientSpace,
        ]],
        Action::DeleteVolume => &[&[
            Kind::PoolNotFound,
            Kind::VolumeNotFound,
            Kind::PoolInactive,
            Kind::VolumeInUse,
            Kind::VmBusy,
        ]],
        Action::GetNetwork => &[PICTURE, &[Kind::NetworkNotFound]],
        Action::GetCapabilities => &[PICTURE],
        Action::ListTasks => &[DATABASE, &[Kind::InvalidCursor]],
        Action::GetTask | Action::GetTaskLog => &[DATABASE, &[Kind::TaskNotFound]],
        Action::CancelTask => {
            &[&[Kind::TaskNotFound, Kind::TaskFinished, Kind::TaskNotCancellable]]
        }
        Action::ListEvents => &[DATABASE],
        Action::GetReady => &[PICTURE, DATABASE],
        Action::GetHost
        | Action::GetMetrics
        | Action::GetHealth
        | Action::GetVersion
        | Action::ListErrors
        | Action::GetOpenapi
        | Action::GetDocs => &[],
    };
    let shared: &[&[Kind]] = match action.effect() {
        Effect::Reads => &[ANY],
        Effect::Changes => &[ANY, CHANGE],
    };
    let mut kinds: Vec<Kind> = own.iter().chain(shared).copied().flatten().copied().collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// Whether the operation answers with an `ETag` and takes `If-None-Match`.
pub fn is_tagged(action: Action) -> bool {
    match action {
        Action::ListVms
        | Action::GetVm
        | Action::ListPools
        | Action::GetPool
        | Action::ListPoolVolumes
        | Action::ListVolumes
        | Action::GetVolume
        | Action::ListNetworks
        | Action::GetNetwork
        | Action::GetCapabilities
        | Action::ListTasks
        | Action::GetTask
        | Action::ListErrors
        | Action::GetOpenapi => true,
        Action::CreateVm
        | Action::CreateVmEnhanced
        | Action::ReplaceVm
        | Action::UpdateVm
        | Action::DeleteVm
        | Action::ActOnVm
        | Action::GetVmXml
        | Action::ReplaceVmXml
        | Action::CreateVolume
        | Action::DeleteVolume
        | Action::GetHost
        | Action::GetTaskLog
        | Action::CancelTask
        | Action::ListEvents
        | Action::GetMetrics
        | Action::GetHealth
        | Action::GetReady
        | Action::GetVersion
        | Action::GetDocs => false,
    }
}

/// Whether the operation takes `If-Match`.
pub fn is_guarded(action: Action) -> bool {
    kinds(action).contains(&Kind::PreconditionFailed)
}
