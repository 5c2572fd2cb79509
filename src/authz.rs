//! Who may do what: one pure table.
//!
//! Every operation of the API is an [`Action`], named like its `operationId`; every handler names
//! its action before it touches a service, and [`decide`] answers from the action's row alone.
//! Nothing here does I/O. A test holds the OpenAPI document, this table and the handlers together.

use crate::error::{Error, Kind, Result};
use crate::model::{Principal, SubjectType};

/// Who a row lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Whoever can reach the listener, known or not: what tells nothing about this host's guests.
    Anyone,
    /// Whoever came over the Unix socket or over loopback TCP.
    Caller,
}

/// Whether an action only looks or also changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Reads,
    Changes,
}

/// The answer for one principal, one action and one resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

/// What the action is done to. A list is the type without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// The API itself: its document, its catalogue, its health.
    Api,
    /// Everything of one type, or the host.
    All(SubjectType),
    /// One thing, by the name or id the client used.
    One(SubjectType, &'a str),
}

macro_rules! actions {
    ($($variant:ident = $id:literal, $audience:ident, $effect:ident;)*) => {
        /// One operation of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Action {
            $(#[doc = concat!("`", $id, "`")] $variant,)*
        }

        impl Action {
            /// Every action, in the order of the table.
            pub const ALL: &'static [Action] = &[$(Action::$variant,)*];

            /// The `operationId` of the operation.
            pub const fn as_str(self) -> &'static str {
                match self { $(Action::$variant => $id,)* }
            }

            /// Who may do it.
            pub const fn audience(self) -> Audience {
                match self { $(Action::$variant => Audience::$audience,)* }
            }

            /// Whether it changes anything.
            pub const fn effect(self) -> Effect {
                match self { $(Action::$variant => Effect::$effect,)* }
            }

            /// The action of this `operationId`, if there is one.
            pub fn from_id(id: &str) -> Option<Action> {
                match id { $($id => Some(Action::$variant),)* _ => None }
            }
        }
    };
}

actions! {
    ListVms = "list_vms", Caller, Reads;
    CreateVm = "create_vm", Caller, Changes;
    CreateVmEnhanced = "create_vm_enhanced", Caller, Changes;
    GetVm = "get_vm", Caller, Reads;
    ReplaceVm = "replace_vm", Caller, Changes;
    UpdateVm = "update_vm", Caller, Changes;
    DeleteVm = "delete_vm", Caller, Changes;
    ActOnVm = "act_on_vm", Caller, Changes;
    ExchangeMedium = "exchange_medium", Caller, Changes;
    GetVmXml = "get_vm_xml", Caller, Reads;
    CloneVm = "clone_vm", Caller, Changes;
    CloneVmFrom = "clone_vm_from", Caller, Changes;
    ListTemplates = "list_templates", Caller, Reads;
    CreateTemplate = "create_template", Caller, Changes;
    GetTemplate = "get_template", Caller, Reads;
    UpdateTemplate = "update_template", Caller, Changes;
    DeleteTemplate = "delete_template", Caller, Changes;
    MakeTemplate = "make_template", Caller, Changes;
    CreateVmFromTemplate = "create_vm_from_template", Caller, Changes;
    ListVmDefinitions = "list_vm_definitions", Caller, Reads;
    GetVmDefinition = "get_vm_definition", Caller, Reads;
    DiffVmDefinition = "diff_vm_definition", Caller, Reads;
    RollbackVm = "rollback_vm", Caller, Changes;
    ReplaceVmXml = "replace_vm_xml", Caller, Changes;
    ListPools = "list_pools", Caller, Reads;
    CreatePool = "create_pool", Caller, Changes;
    GetPool = "get_pool", Caller, Reads;
    UpdatePool = "update_pool", Caller, Changes;
    DeletePool = "delete_pool", Caller, Changes;
    StartPool = "start_pool", Caller, Changes;
    StopPool = "stop_pool", Caller, Changes;
    RefreshPool = "refresh_pool", Caller, Changes;
    GetPoolCapacity = "get_pool_capacity", Caller, Reads;
    ListPoolVolumes = "list_pool_volumes", Caller, Reads;
    ListVolumes = "list_volumes", Caller, Reads;
    GetVolume = "get_volume", Caller, Reads;
    CreateVolume = "create_volume", Caller, Changes;
    DeleteVolume = "delete_volume", Caller, Changes;
    ResizeVolume = "resize_volume", Caller, Changes;
    CloneVolume = "clone_volume", Caller, Changes;
    WipeVolume = "wipe_volume", Caller, Changes;
    DownloadVolume = "download_volume", Caller, Reads;
    UploadVolume = "upload_volume", Caller, Changes;
    ImportVolume = "import_volume", Caller, Changes;
    ListUploads = "list_uploads", Caller, Reads;
    CreateUpload = "create_upload", Caller, Changes;
    GetUploadOptions = "get_upload_options", Anyone, Reads;
    GetUploadOffset = "get_upload_offset", Caller, Reads;
    AppendUpload = "append_upload", Caller, Changes;
    TerminateUpload = "terminate_upload", Caller, Changes;
    ListIsoUploads = "list_iso_uploads", Caller, Reads;
    CreateIsoUpload = "create_iso_upload", Caller, Changes;
    GetIsoUploadOptions = "get_iso_upload_options", Anyone, Reads;
    GetIsoUploadOffset = "get_iso_upload_offset", Caller, Reads;
    AppendIsoUpload = "append_iso_upload", Caller, Changes;
    TerminateIsoUpload = "terminate_iso_upload", Caller, Changes;
    ListNetworks = "list_networks", Caller, Reads;
    CreateNetwork = "create_network", Caller, Changes;
    GetNetwork = "get_network", Caller, Reads;
    UpdateNetwork = "update_network", Caller, Changes;
    DeleteNetwork = "delete_network", Caller, Changes;
    StartNetwork = "start_network", Caller, Changes;
    StopNetwork = "stop_network", Caller, Changes;
    ListNetworkLeases = "list_network_leases", Caller, Reads;
    ListNetworkPorts = "list_network_ports", Caller, Reads;
    ListIsos = "list_isos", Caller, Reads;
    RegisterIso = "register_iso", Caller, Changes;
    GetIso = "get_iso", Caller, Reads;
    DeleteIso = "delete_iso", Caller, Changes;
    DownloadIso = "download_iso", Caller, Reads;
    ComputeIsoChecksum = "compute_iso_checksum", Caller, Changes;
    ListOsVariants = "list_os_variants", Caller, Reads;
    GetCapabilities = "get_capabilities", Caller, Reads;
    GetHost = "get_host", Caller, Reads;
    ListTasks = "list_tasks", Caller, Reads;
    GetTask = "get_task", Caller, Reads;
    GetTaskLog = "get_task_log", Caller, Reads;
    CancelTask = "cancel_task", Caller, Changes;
    ListEvents = "list_events", Caller, Reads;
    GetMetrics = "get_metrics", Caller, Reads;
    GetDatabaseBackup = "get_database_backup", Caller, Reads;
    GetHealth = "get_health", Anyone, Reads;
    GetReady = "get_ready", Anyone, Reads;
    GetVersion = "get_version", Anyone, Reads;
    ListErrors = "list_errors", Anyone, Reads;
    GetOpenapi = "get_openapi", Anyone, Reads;
    GetDocs = "get_docs", Anyone, Reads;
}

/// Whether `principal` may do `action` to `resource`.
///
/// Until access control exists, whoever the kernel lets open the socket, or who is on loopback, may
/// do everything. Vapor itself calls services, never its own API: a request that claims to be it
/// did not come through a listener.
pub fn decide(principal: &Principal, action: Action, resource: Resource<'_>) -> Decision {
    let _ = resource; // no row distinguishes single things yet
    match (action.audience(), principal) {
        (Audience::Anyone, _) => Decision::Allow,
        (Audience::Caller, Principal::Local { .. } | Principal::Loopback) => Decision::Allow,
        (Audience::Caller, Principal::System) => Decision::Deny,
    }
}

/// [`decide`] as a result.
///
/// # Errors
/// [`Kind::Forbidden`], naming the action.
pub fn require(principal: &Principal, action: Action, resource: Resource<'_>) -> Result<()> {
    match decide(principal, action, resource) {
        Decision::Allow => Ok(()),
        Decision::Deny => {
            Err(Error::new(Kind::Forbidden, format!("{principal} may not {}", action.as_str()))
                .with_detail("action", action.as_str()))
        }
    }
}

/// Whether a caller may have Vapor reach files and devices of the host that no pool holds: root on
/// the Unix socket, and the user that the daemon runs as, who can do so anyway.
pub fn administers_host(principal: &Principal) -> bool {
    match principal {
        Principal::Local { uid, .. } => *uid == 0 || *uid == nix::unistd::geteuid().as_raw(),
        Principal::System => true,
        Principal::Loopback => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Principal {
        Principal::Local { uid: 1000, name: Some("ann".to_owned()) }
    }

    #[test]
    fn who_opened_the_socket_or_is_on_loopback_may_do_everything() {
        for action in Action::ALL {
            for principal in [local(), Principal::Loopback] {
                assert_eq!(decide(&principal, *action, Resource::Api), Decision::Allow);
            }
        }
    }

    #[test]
    fn nobody_acts_over_the_api_as_vapor_itself() {
        for action in Action::ALL {
            let expected = match action.audience() {
                Audience::Anyone => Decision::Allow,
                Audience::Caller => Decision::Deny,
            };
            assert_eq!(decide(&Principal::System, *action, Resource::Api), expected, "{action:?}");
        }
    }

    #[test]
    fn what_changes_something_is_never_open_to_anyone() {
        for action in Action::ALL {
            if action.effect() == Effect::Changes {
                assert_eq!(action.audience(), Audience::Caller, "{action:?}");
            }
        }
    }

    #[test]
    fn every_id_leads_back_to_its_action() {
        for action in Action::ALL {
            assert_eq!(Action::from_id(action.as_str()), Some(*action));
        }
    }

    #[test]
    fn a_denial_names_who_and_what() {
        let resource = Resource::One(SubjectType::Vm, "web1");
        let error = require(&Principal::System, Action::DeleteVm, resource).unwrap_err();
        assert_eq!(error.kind(), Kind::Forbidden);
        assert_eq!(error.message(), "system may not delete_vm");
    }
}
