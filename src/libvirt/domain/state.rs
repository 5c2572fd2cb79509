//! libvirt's numbers for a domain's state and reason, as the model's states and words.

use virt::sys;

use crate::model::VmState;

/// `virDomainState` and its reason. An unknown state is shown as shut off with the reason `unknown`;
/// *blocked* (a guest that waits for something) counts as running, as in `virsh`.
pub(super) fn translate(state: i32, reason: i32) -> (VmState, &'static str) {
    let (state, words): (VmState, &[&'static str]) = match u32::try_from(state).unwrap_or(u32::MAX)
    {
        sys::VIR_DOMAIN_RUNNING => (
            VmState::Running,
            &[
                "unknown",
                "booted",
                "migrated",
                "restored",
                "from-snapshot",
                "unpaused",
                "migration-cancelled",
                "save-cancelled",
                "wakeup",
                "crashed",
                "post-copy",
                "post-copy-failed",
            ],
        ),
        sys::VIR_DOMAIN_BLOCKED => (VmState::Running, &["unknown"]),
        sys::VIR_DOMAIN_PAUSED => (
            VmState::Paused,
            &[
                "unknown",
                "user",
                "migration",
                "save",
                "dump",
                "io-error",
                "watchdog",
                "from-snapshot",
                "shutting-down",
                "snapshot",
                "crashed",
                "starting-up",
                "post-copy",
                "post-copy-failed",
                "api-error",
            ],
        ),
        sys::VIR_DOMAIN_SHUTDOWN => (VmState::ShuttingDown, &["unknown", "user"]),
        sys::VIR_DOMAIN_SHUTOFF => (
            VmState::Shutoff,
            &[
                "unknown",
                "shutdown",
                "destroyed",
                "crashed",
                "migrated",
                "saved",
                "failed",
                "from-snapshot",
                "daemon",
            ],
        ),
        sys::VIR_DOMAIN_CRASHED => (VmState::Crashed, &["unknown", "panicked"]),
        sys::VIR_DOMAIN_PMSUSPENDED => (VmState::Suspended, &["unknown"]),
        _ => (VmState::Shutoff, &["unknown"]),
    };
    let reason = usize::try_from(reason).ok().and_then(|index| words.get(index)).copied();
    (state, reason.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_stand_at_libvirts_numbers() {
        let words = |state: u32, reason: u32| translate(state as i32, reason as i32);
        assert_eq!(
            words(sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_CRASHED),
            (VmState::Running, "crashed")
        );
        assert_eq!(
            words(sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_API_ERROR),
            (VmState::Paused, "api-error")
        );
        assert_eq!(
            words(sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DAEMON),
            (VmState::Shutoff, "daemon")
        );
        assert_eq!(
            words(sys::VIR_DOMAIN_SHUTDOWN, sys::VIR_DOMAIN_SHUTDOWN_USER),
            (VmState::ShuttingDown, "user")
        );
        assert_eq!(words(sys::VIR_DOMAIN_PMSUSPENDED, 0), (VmState::Suspended, "unknown"));
    }

    #[test]
    fn numbers_from_the_future_are_unknown_not_a_panic() {
        assert_eq!(translate(4711, 3), (VmState::Shutoff, "unknown"));
        assert_eq!(translate(-1, -1), (VmState::Shutoff, "unknown"));
        assert_eq!(translate(sys::VIR_DOMAIN_RUNNING as i32, 999), (VmState::Running, "unknown"));
    }
}
