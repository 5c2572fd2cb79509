//! What can be done to a VM's power state.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One action of `POST V/{id}/action`. Several words mean the same, because control planes use
/// all of them: `stop` and `shutdown`, `force-stop` and `destroy`, `pause` and `suspend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmAction {
    /// Boots the VM; a saved state is restored. `virDomainCreate`.
    Start,
    /// Asks the guest to shut down and waits until it has. `virDomainShutdownFlags`.
    Stop,
    /// The same as `stop`.
    Shutdown,
    /// Cuts the power. `virDomainDestroy`.
    ForceStop,
    /// The same as `force-stop`; nothing but the power is taken away.
    Destroy,
    /// Stops gracefully and starts again: a new QEMU process, in which pending changes hold.
    Restart,
    /// Asks the guest to reboot within the same QEMU process. `virDomainReboot`.
    Reboot,
    /// Presses the reset button. `virDomainReset`.
    Reset,
    /// Halts the virtual CPUs; memory stays. `virDomainSuspend`.
    Pause,
    /// The same as `pause`.
    Suspend,
    /// Lets a paused VM go on, or wakes one that sleeps. `virDomainResume`, `virDomainPMWakeup`.
    Resume,
    /// Writes the memory to disk and stops. `virDomainManagedSave`.
    Save,
    /// Starts from the saved memory, and refuses if there is none. `virDomainCreate`.
    RestoreSaved,
}

impl VmAction {
    /// Every action.
    pub const ALL: [VmAction; 13] = [
        VmAction::Start,
        VmAction::Stop,
        VmAction::Shutdown,
        VmAction::ForceStop,
        VmAction::Destroy,
        VmAction::Restart,
        VmAction::Reboot,
        VmAction::Reset,
        VmAction::Pause,
        VmAction::Suspend,
        VmAction::Resume,
        VmAction::Save,
        VmAction::RestoreSaved,
    ];

    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            VmAction::Start => "start",
            VmAction::Stop => "stop",
            VmAction::Shutdown => "shutdown",
            VmAction::ForceStop => "force-stop",
            VmAction::Destroy => "destroy",
            VmAction::Restart => "restart",
            VmAction::Reboot => "reboot",
            VmAction::Reset => "reset",
            VmAction::Pause => "pause",
            VmAction::Suspend => "suspend",
            VmAction::Resume => "resume",
            VmAction::Save => "save",
            VmAction::RestoreSaved => "restore-saved",
        }
    }
}

/// The body of `POST V/{id}/action`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What to do.
    pub action: VmAction,
    /// For `stop`, `shutdown` and `restart`: cut the power if the guest has not stopped in time.
    #[serde(default)]
    pub force: bool,
    /// For `stop`, `shutdown` and `restart`: seconds that the guest gets; 300 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86400)]
    pub timeout: Option<u32>,
}
