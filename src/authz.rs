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
    GetVmXml = "get_vm_xml", Caller, Reads;
    ReplaceVmXml = "replace_vm_xml", Caller, Changes;
    ListPools = "list_pools", Caller, Reads;
    GetPool = "get_pool", Caller, Reads;
    ListPoolVolumes = "list_pool_volumes", Caller, Reads;
    ListVolumes = "list_volumes", Caller, Reads;
    GetVolume = "get_volume", Caller, Reads;
    CreateVolume = "create_volume", Caller, Changes;
    DeleteVolume = "delete_volume", Caller, Changes;
    ListNetworks = "list_networks", Caller, Reads;
    GetNetwork = "get_network", Caller, Reads;
    GetCapabilities = "get_capabilities", Caller, Reads;
    GetHost = "get_host", Caller, Reads;
    ListTasks = "list_tasks", Caller, Reads;
    GetTask = "get_task", Caller, Reads;
    GetTaskLog = "get_task_log", Caller, Reads;
    CancelTask = "cancel_task", Caller, Changes;
    ListEvents = "list_events", Caller, Reads;
    GetMetrics = "get_metrics", Caller, Reads;
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
