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
    Kind::VolumeBusy,
    Kind::PoolBusy,
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
/// What any mutation of an existing pool can answer.
const POOL_CHANGE: &[Kind] =
    &[Kind::PoolNotFound, Kind::PoolBusy, Kind::NotSupported, Kind::PreconditionFailed];
const VM_UPDATE: &[Kind] =
    &[Kind::VmTransient, Kind::NotSupported, Kind::Impossible, Kind::InvalidDefinition];

/// What any mutation of storage in a pool can answer.
const VOLUME_CHANGE: &[Kind] = &[
    Kind::PoolNotFound,
    Kind::VolumeNotFound,
    Kind::PoolInactive,
    Kind::VolumeInUse,
    Kind::VolumeBusy,
    Kind::PoolBusy,
];
/// What anything that streams a volume's bytes can answer.
const STREAM: &[Kind] = &[
    Kind::PoolInactive,
    Kind::VolumeBusy,
    Kind::PoolBusy,
    Kind::TooManyRequests,
    Kind::NotSupported,
];
/// What any upload can answer.
const UPLOAD: &[Kind] = &[
    Kind::PoolNotFound,
    Kind::VolumeAlreadyExists,
    Kind::InsufficientSpace,
    Kind::ImageRefused,
    Kind::DigestMismatch,
    Kind::InvalidDefinition,
];
const TUS: &[Kind] = &[Kind::TusVersionUnsupported];
/// What any mutation of an existing network can answer.
const NETWORK_CHANGE: &[Kind] = &[
    Kind::NetworkNotFound,
    Kind::NetworkBusy,
    Kind::NetworkInactive,
    Kind::NotSupported,
    Kind::PreconditionFailed,
];
/// What a description of a network can be refused with.
const NETWORK_SHAPE: &[Kind] = &[Kind::Impossible, Kind::NotSupported, Kind::InvalidDefinition];

/// Every kind that `action` can be answered with, sorted, each once.
pub fn kinds(action: Action) -> Vec<Kind> {
    let own: &[&[Kind]] = match action {
        Action::ListVms | Action::ListPools | Action::ListVolumes | Action::ListNetworks => {
            &[PICTURE, &[Kind::InvalidCursor]]
        }
        Action::GetVm | Action::GetVmXml => &[PICTURE, &[Kind::VmNotFound]],
        Action::CreateVm | Action::CreateVmEnhanced => &[VM_CREATE],
        Action::ListVmDefinitions => &[PICTURE, DATABASE, &[Kind::VmNotFound]],
        Action::GetVmDefinition | Action::DiffVmDefinition => {
            &[PICTURE, DATABASE, &[Kind::VmNotFound, Kind::DefinitionNotFound]]
        }
        Action::RollbackVm => &[
            VM_CHANGE,
            VM_UPDATE,
            &[
                Kind::DefinitionNotFound,
                Kind::VolumeInUse,
                Kind::VolumeBusy,
                Kind::PoolBusy,
                Kind::MacInUse,
            ],
        ],
        Action::ListTemplates => &[PICTURE, &[Kind::InvalidCursor]],
        Action::GetTemplate => &[PICTURE, &[Kind::TemplateNotFound]],
        Action::CreateTemplate => &[&[
            Kind::TemplateAlreadyExists,
            Kind::TemplateBusy,
            Kind::NotSupported,
            Kind::Impossible,
        ]],
        Action::UpdateTemplate => &[&[
            Kind::TemplateNotFound,
            Kind::TemplateAlreadyExists,
            Kind::TemplateBusy,
            Kind::NotSupported,
            Kind::Impossible,
        ]],
        Action::DeleteTemplate => &[&[
            Kind::TemplateNotFound,
            Kind::TemplateInUse,
            Kind::TemplateBusy,
            Kind::VolumeBusy,
            Kind::PoolBusy,
            Kind::PoolInactive,
        ]],
        Action::MakeTemplate => &[
            VM_CHANGE,
            VM_CREATE,
            &[
                Kind::TemplateAlreadyExists,
                Kind::TemplateBusy,
                Kind::VmRunning,
                Kind::VmHasSnapshots,
                Kind::VmHasSavedState,
            ],
        ],
        Action::CreateVmFromTemplate => &[VM_CREATE, &[Kind::TemplateNotFound]],
        Action::CloneVm | Action::CloneVmFrom => &[
            VM_CHANGE,
            VM_CREATE,
            &[Kind::DiskNotFound, Kind::VmHasSavedState, Kind::VmNotRunning],
        ],
        Action::ReplaceVm | Action::UpdateVm => &[VM_CHANGE, VM_UPDATE],
        Action::DeleteVm => &[
            VM_CHANGE,
            &[
                Kind::VmRunning,
                Kind::VmHasSnapshots,
                Kind::VmHasSavedState,
                Kind::VolumeInUse,
                Kind::VolumeBusy,
                Kind::PoolBusy,
            ],
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
        Action::ExchangeMedium => &[
            VM_CHANGE,
            &[
                Kind::DiskNotFound,
                Kind::IsoNotFound,
                Kind::PoolNotFound,
                Kind::VolumeNotFound,
                Kind::PoolInactive,
                Kind::PoolBusy,
                Kind::VolumeBusy,
                Kind::VolumeInUse,
                Kind::DriveEmpty,
                Kind::MediumAlreadyInserted,
                Kind::MediumLocked,
                Kind::NotSupported,
                Kind::Impossible,
                Kind::InvalidDefinition,
            ],
        ],
        Action::GetPool | Action::GetPoolCapacity => &[PICTURE, &[Kind::PoolNotFound]],
        Action::CreatePool => &[&[
            Kind::PoolAlreadyExists,
            Kind::PoolConflict,
            Kind::PoolBusy,
            Kind::NotSupported,
            Kind::Impossible,
            Kind::InvalidDefinition,
            Kind::InsufficientSpace,
        ]],
        Action::UpdatePool => &[
            POOL_CHANGE,
            &[Kind::PoolActive, Kind::PoolConflict, Kind::Impossible, Kind::InvalidDefinition],
        ],
        Action::DeletePool => &[
            POOL_CHANGE,
            &[
                Kind::PoolNotEmpty,
                Kind::PoolInactive,
                Kind::VolumeInUse,
                Kind::VolumeBusy,
                Kind::Impossible,
            ],
        ],
        Action::StartPool => &[POOL_CHANGE, &[Kind::PoolActive, Kind::PoolConflict]],
        Action::StopPool => &[POOL_CHANGE, &[Kind::PoolInactive, Kind::PoolInUse]],
        Action::RefreshPool => &[POOL_CHANGE, &[Kind::PoolInactive]],
        Action::ListPoolVolumes => &[PICTURE, &[Kind::PoolNotFound, Kind::InvalidCursor]],
        Action::GetVolume => &[PICTURE, &[Kind::PoolNotFound, Kind::VolumeNotFound]],
        Action::CreateVolume => &[
            VOLUME_CHANGE,
            &[
                Kind::VolumeAlreadyExists,
                Kind::NotSupported,
                Kind::Impossible,
                Kind::InvalidDefinition,
                Kind::InsufficientSpace,
            ],
        ],
        Action::CloneVolume => &[
            VOLUME_CHANGE,
            &[
                Kind::VmBusy,
                Kind::VolumeAlreadyExists,
                Kind::NotSupported,
                Kind::Impossible,
                Kind::InvalidDefinition,
                Kind::InsufficientSpace,
            ],
        ],
        Action::ResizeVolume => &[
            VOLUME_CHANGE,
            &[
                Kind::VmBusy,
                Kind::VmNotFound,
                Kind::VmWrongState,
                Kind::VmNotRunning,
                Kind::NotSupported,
                Kind::Impossible,
                Kind::InsufficientSpace,
            ],
        ],
        Action::WipeVolume => &[
            VOLUME_CHANGE,
            &[Kind::VolumeAlreadyExists, Kind::NotSupported, Kind::InsufficientSpace],
        ],
        Action::DeleteVolume => &[VOLUME_CHANGE],
        Action::DownloadVolume => &[
            PICTURE,
            STREAM,
            &[
                Kind::PoolNotFound,
                Kind::VolumeNotFound,
                Kind::VolumeInUse,
                Kind::RangeNotSatisfiable,
                Kind::LibvirtRefused,
            ],
        ],
        Action::UploadVolume => &[UPLOAD, STREAM],
        Action::ImportVolume => &[
            STREAM,
            &[
                Kind::PoolNotFound,
                Kind::VolumeNotFound,
                Kind::VolumeAlreadyExists,
                Kind::VolumeInUse,
                Kind::ImageRefused,
                Kind::InvalidDefinition,
                Kind::InsufficientSpace,
            ],
        ],
        Action::ListUploads => &[PICTURE, &[Kind::PoolNotFound]],
        Action::ListIsoUploads => &[PICTURE],
        Action::CreateUpload | Action::CreateIsoUpload => &[UPLOAD, STREAM, TUS],
        Action::AppendUpload | Action::AppendIsoUpload => &[
            UPLOAD,
            STREAM,
            TUS,
            &[
                Kind::UploadNotFound,
                Kind::UploadBusy,
                Kind::UploadOffsetMismatch,
                Kind::ChecksumMismatch,
            ],
        ],
        Action::GetUploadOffset | Action::GetIsoUploadOffset => {
            &[TUS, DATABASE, &[Kind::UploadNotFound]]
        }
        Action::TerminateUpload | Action::TerminateIsoUpload => {
            &[TUS, &[Kind::UploadNotFound, Kind::TaskNotCancellable]]
        }
        Action::GetUploadOptions | Action::GetIsoUploadOptions => &[],
        Action::ListIsos => &[PICTURE, &[Kind::InvalidCursor]],
        Action::RegisterIso => &[&[
            Kind::PoolNotFound,
            Kind::VolumeNotFound,
            Kind::PoolInactive,
            Kind::PoolBusy,
            Kind::VolumeBusy,
            Kind::IsoAlreadyExists,
            Kind::NotAnIso,
            Kind::NotSupported,
        ]],
        Action::GetIso => &[PICTURE, &[Kind::IsoNotFound]],
        Action::DeleteIso => &[&[
            Kind::IsoNotFound,
            Kind::IsoInUse,
            Kind::IsoBusy,
            Kind::VolumeBusy,
            Kind::PoolBusy,
            Kind::PoolInactive,
        ]],
        Action::DownloadIso => &[
            PICTURE,
            STREAM,
            &[
                Kind::IsoNotFound,
                Kind::PoolNotFound,
                Kind::VolumeNotFound,
                Kind::VolumeInUse,
                Kind::RangeNotSatisfiable,
                Kind::LibvirtRefused,
            ],
        ],
        Action::ComputeIsoChecksum => &[&[
            Kind::IsoNotFound,
            Kind::PoolNotFound,
            Kind::VolumeNotFound,
            Kind::PoolInactive,
            Kind::IsoBusy,
            Kind::VolumeBusy,
            Kind::PoolBusy,
            Kind::NotSupported,
        ]],
        Action::ListOsVariants => &[&[Kind::InvalidCursor]],
        Action::GetNetwork | Action::ListNetworkPorts => &[PICTURE, &[Kind::NetworkNotFound]],
        Action::ListNetworkLeases => {
            &[PICTURE, &[Kind::NetworkNotFound, Kind::LibvirtRefused, Kind::LibvirtTimeout]]
        }
        Action::CreateNetwork => &[
            NETWORK_SHAPE,
            &[Kind::NetworkAlreadyExists, Kind::NetworkBusy, Kind::NetworkConflict],
        ],
        Action::UpdateNetwork => &[NETWORK_CHANGE, NETWORK_SHAPE, &[Kind::NetworkConflict]],
        Action::StartNetwork => &[
            NETWORK_CHANGE,
            &[Kind::NetworkAlreadyActive, Kind::NetworkConflict, Kind::Impossible],
        ],
        Action::DeleteNetwork | Action::StopNetwork => &[NETWORK_CHANGE, &[Kind::NetworkInUse]],
        Action::GetCapabilities => {
            &[PICTURE, &[Kind::NotSupported, Kind::LibvirtTimeout, Kind::TooManyRequests]]
        }
        Action::ListTasks => &[DATABASE, &[Kind::InvalidCursor]],
        Action::GetTask | Action::GetTaskLog => &[DATABASE, &[Kind::TaskNotFound]],
        Action::CancelTask => {
            &[&[Kind::TaskNotFound, Kind::TaskFinished, Kind::TaskNotCancellable]]
        }
        Action::ListEvents => &[DATABASE],
        Action::GetReady => &[PICTURE, DATABASE],
        Action::GetDatabaseBackup => &[DATABASE, &[Kind::TooManyRequests]],
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
        | Action::GetPoolCapacity
        | Action::ListPoolVolumes
        | Action::ListVolumes
        | Action::GetVolume
        | Action::ListNetworks
        | Action::GetNetwork
        | Action::ListIsos
        | Action::GetIso
        | Action::ListTemplates
        | Action::GetTemplate
        | Action::ListVmDefinitions
        | Action::GetVmDefinition
        | Action::ListOsVariants
        | Action::ListNetworkPorts
        | Action::GetCapabilities
        | Action::ListTasks
        | Action::GetTask
        | Action::ListErrors
        | Action::GetOpenapi => true,
        Action::CreateVm
        | Action::CreateVmEnhanced
        | Action::CloneVm
        | Action::CloneVmFrom
        | Action::CreateTemplate
        | Action::UpdateTemplate
        | Action::DeleteTemplate
        | Action::MakeTemplate
        | Action::CreateVmFromTemplate
        | Action::ReplaceVm
        | Action::UpdateVm
        | Action::DeleteVm
        | Action::ActOnVm
        | Action::GetVmXml
        | Action::ReplaceVmXml
        | Action::DiffVmDefinition
        | Action::RollbackVm
        | Action::ExchangeMedium
        | Action::RegisterIso
        | Action::DeleteIso
        | Action::ComputeIsoChecksum
        | Action::CreatePool
        | Action::UpdatePool
        | Action::DeletePool
        | Action::StartPool
        | Action::StopPool
        | Action::RefreshPool
        | Action::CreateVolume
        | Action::DeleteVolume
        | Action::ResizeVolume
        | Action::CloneVolume
        | Action::WipeVolume
        | Action::CreateNetwork
        | Action::UpdateNetwork
        | Action::DeleteNetwork
        | Action::StartNetwork
        | Action::StopNetwork
        | Action::ListNetworkLeases
        | Action::GetHost
        | Action::GetTaskLog
        | Action::CancelTask
        | Action::ListEvents
        | Action::GetMetrics
        | Action::GetDatabaseBackup
        | Action::GetHealth
        | Action::GetReady
        | Action::GetVersion
        | Action::GetDocs
        | Action::DownloadVolume
        | Action::DownloadIso
        | Action::UploadVolume
        | Action::ImportVolume
        | Action::ListUploads
        | Action::CreateUpload
        | Action::GetUploadOptions
        | Action::GetUploadOffset
        | Action::AppendUpload
        | Action::TerminateUpload
        | Action::ListIsoUploads
        | Action::CreateIsoUpload
        | Action::GetIsoUploadOptions
        | Action::GetIsoUploadOffset
        | Action::AppendIsoUpload
        | Action::TerminateIsoUpload => false,
    }
}

/// Whether the operation speaks the tus protocol, which knows neither plans nor tasks.
pub fn is_tus(action: Action) -> bool {
    kinds(action).contains(&Kind::TusVersionUnsupported)
}

/// Whether the operation takes `If-Match`.
pub fn is_guarded(action: Action) -> bool {
    kinds(action).contains(&Kind::PreconditionFailed)
}
