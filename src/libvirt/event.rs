//! What libvirt announces, in plain data, and the words for libvirt's numbers.
//!
//! Made by the callbacks in `ffi/events.rs` and by the supervisor; consumed by the inventory.

use uuid::Uuid;
use virt::sys;

/// One announcement, in the order libvirt made it.
#[derive(Clone, Debug, PartialEq)]
pub enum LibvirtEvent {
    /// A connection stands and its events are subscribed: time to read the whole picture anew.
    Connected {
        /// libvirt's version, `11.3.0`.
        version: Option<String>,
    },
    /// The connection is gone; events may have been missed.
    Disconnected {
        reason: String,
    },
    Domain {
        uuid: Uuid,
        name: String,
        event: DomainEvent,
    },
    Network {
        uuid: Uuid,
        name: String,
        event: ResourceEvent,
    },
    Pool {
        uuid: Uuid,
        name: String,
        event: ResourceEvent,
    },
    NodeDevice {
        name: String,
        event: ResourceEvent,
    },
}

/// What happened to a domain. `detail` is libvirt's reason as a word.
#[derive(Clone, Debug, PartialEq)]
pub enum DomainEvent {
    Defined {
        /// New, as opposed to redefined.
        added: bool,
        renamed: bool,
    },
    Undefined {
        renamed: bool,
    },
    Started {
        detail: &'static str,
    },
    Suspended {
        detail: &'static str,
    },
    Resumed {
        detail: &'static str,
    },
    Stopped {
        detail: &'static str,
    },
    /// The guest has finished its shutdown; the process may still exist.
    ShutdownFinished {
        detail: &'static str,
    },
    PmSuspended {
        detail: &'static str,
    },
    PmWakeup,
    Crashed {
        detail: &'static str,
    },
    Rebooted,
    AgentConnected,
    AgentDisconnected,
    /// The guest's real memory, KiB.
    BalloonChanged {
        kib: u64,
    },
    /// A virtio-mem device changed its size, KiB.
    MemoryDeviceResized {
        alias: String,
        kib: u64,
    },
    DeviceAdded {
        alias: String,
    },
    DeviceRemoved {
        alias: String,
    },
    DeviceRemovalFailed {
        alias: String,
    },
    MetadataChanged,
    /// A removable medium was changed, or the tray moved.
    MediaChanged {
        alias: String,
        /// `open` or `closed` for a tray; `changed` or `missing` for a source.
        what: &'static str,
    },
    /// The guest's disk reported an I/O error.
    IoError {
        alias: String,
        path: String,
        reason: String,
        /// Whether libvirt paused the guest because of it.
        paused: bool,
    },
    WatchdogFired {
        action: &'static str,
    },
    /// A block job on the disk with this target name.
    BlockJob {
        disk: String,
        kind: &'static str,
        status: &'static str,
    },
    BlockThreshold {
        disk: String,
        threshold: u64,
        excess: u64,
    },
    /// A job such as a migration or a backup ended.
    JobCompleted,
    MigrationIteration {
        iteration: u32,
    },
    /// Cgroup or I/O tuning changed.
    TunableChanged,
    ControlError,
    MemoryFailure,
}

/// What happened to a network, a pool or a node device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceEvent {
    Defined,
    Undefined,
    Started,
    Stopped,
    Created,
    Deleted,
    Refreshed,
    Updated,
    MetadataChanged,
}

fn word(words: &[&'static str], index: i32) -> &'static str {
    usize::try_from(index).ok().and_then(|index| words.get(index)).copied().unwrap_or("unknown")
}

impl DomainEvent {
    /// `virDomainEventType` and its detail; `None` for a type this version of Vapor does not know.
    pub(super) fn from_lifecycle(event: i32, detail: i32) -> Option<DomainEvent> {
        let event = u32::try_from(event).ok()?;
        Some(match event {
            sys::VIR_DOMAIN_EVENT_DEFINED => DomainEvent::Defined {
                added: detail == sys::VIR_DOMAIN_EVENT_DEFINED_ADDED as i32,
                renamed: detail == sys::VIR_DOMAIN_EVENT_DEFINED_RENAMED as i32,
            },
            sys::VIR_DOMAIN_EVENT_UNDEFINED => DomainEvent::Undefined {
                renamed: detail == sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED as i32,
            },
            sys::VIR_DOMAIN_EVENT_STARTED => DomainEvent::Started {
                detail: word(
                    &["booted", "migrated", "restored", "from-snapshot", "wakeup", "recreated"],
                    detail,
                ),
            },
            sys::VIR_DOMAIN_EVENT_SUSPENDED => DomainEvent::Suspended {
                detail: word(
                    &[
                        "paused",
                        "migrated",
                        "io-error",
                        "watchdog",
                        "restored",
                        "from-snapshot",
                        "api-error",
                        "post-copy",
                        "post-copy-failed",
                        "guest-shutdown",
                    ],
                    detail,
                ),
            },
            sys::VIR_DOMAIN_EVENT_RESUMED => DomainEvent::Resumed {
                detail: word(
                    &["unpaused", "migrated", "from-snapshot", "post-copy", "post-copy-failed"],
                    detail,
                ),
            },
            sys::VIR_DOMAIN_EVENT_STOPPED => DomainEvent::Stopped {
                detail: word(
                    &[
                        "shutdown",
                        "destroyed",
                        "crashed",
                        "migrated",
                        "saved",
                        "failed",
                        "from-snapshot",
                        "recreated",
                    ],
                    detail,
                ),
            },
            sys::VIR_DOMAIN_EVENT_SHUTDOWN => DomainEvent::ShutdownFinished {
                detail: word(&["finished", "guest", "host"], detail),
            },
            sys::VIR_DOMAIN_EVENT_PMSUSPENDED => {
                DomainEvent::PmSuspended { detail: word(&["memory", "disk"], detail) }
            }
            sys::VIR_DOMAIN_EVENT_CRASHED => {
                DomainEvent::Crashed { detail: word(&["panicked", "crash-loaded"], detail) }
            }
            _ => return None,
        })
    }

    /// `virDomainBlockJobType` and `virConnectDomainEventBlockJobStatus`.
    pub(super) fn from_block_job(disk: String, kind: i32, status: i32) -> DomainEvent {
        DomainEvent::BlockJob {
            disk,
            kind: word(&["unknown", "pull", "copy", "commit", "active-commit", "backup"], kind),
            status: word(&["completed", "failed", "cancelled", "ready"], status),
        }
    }

    /// `virDomainEventWatchdogAction`.
    pub(super) fn from_watchdog(action: i32) -> DomainEvent {
        DomainEvent::WatchdogFired {
            action: word(
                &["none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi"],
                action,
            ),
        }
    }

    /// `virConnectDomainEventAgentLifecycleState`.
    pub(super) fn from_agent(state: i32) -> Option<DomainEvent> {
        match u32::try_from(state).ok()? {
            sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED => {
                Some(DomainEvent::AgentConnected)
            }
            sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED => {
                Some(DomainEvent::AgentDisconnected)
            }
            _ => None,
        }
    }
}

impl ResourceEvent {
    /// `virNetworkEventLifecycleType`.
    pub(super) fn from_network(event: i32) -> Option<ResourceEvent> {
        use ResourceEvent::{Defined, Started, Stopped, Undefined};
        nth(&[Defined, Undefined, Started, Stopped], event)
    }

    /// `virStoragePoolEventLifecycleType`.
    pub(super) fn from_pool(event: i32) -> Option<ResourceEvent> {
        use ResourceEvent::{Created, Defined, Deleted, Started, Stopped, Undefined};
        nth(&[Defined, Undefined, Started, Stopped, Created, Deleted], event)
    }

    /// `virNodeDeviceEventLifecycleType`.
    pub(super) fn from_node_device(event: i32) -> Option<ResourceEvent> {
        use ResourceEvent::{Created, Defined, Deleted, Undefined};
        nth(&[Created, Deleted, Defined, Undefined], event)
    }
}

fn nth(events: &[ResourceEvent], index: i32) -> Option<ResourceEvent> {
    usize::try_from(index).ok().and_then(|index| events.get(index)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifecycle_numbers_become_the_words_of_libvirts_documentation() {
        let stopped = |detail: u32| {
            DomainEvent::from_lifecycle(sys::VIR_DOMAIN_EVENT_STOPPED as i32, detail as i32)
        };
        assert_eq!(
            stopped(sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED),
            Some(DomainEvent::Stopped { detail: "destroyed" })
        );
        assert_eq!(
            stopped(sys::VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT),
            Some(DomainEvent::Stopped { detail: "from-snapshot" })
        );
        assert_eq!(
            DomainEvent::from_lifecycle(
                sys::VIR_DOMAIN_EVENT_SUSPENDED as i32,
                sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR as i32
            ),
            Some(DomainEvent::Suspended { detail: "io-error" })
        );
        assert_eq!(
            DomainEvent::from_lifecycle(
                sys::VIR_DOMAIN_EVENT_DEFINED as i32,
                sys::VIR_DOMAIN_EVENT_DEFINED_RENAMED as i32
            ),
            Some(DomainEvent::Defined { added: false, renamed: true })
        );
    }

    #[test]
    fn a_detail_from_the_future_is_unknown_and_a_type_from_the_future_is_ignored() {
        assert_eq!(
            DomainEvent::from_lifecycle(sys::VIR_DOMAIN_EVENT_STARTED as i32, 99),
            Some(DomainEvent::Started { detail: "unknown" })
        );
        assert_eq!(DomainEvent::from_lifecycle(4711, 0), None);
        assert_eq!(DomainEvent::from_lifecycle(-1, 0), None);
        assert_eq!(ResourceEvent::from_pool(6), None);
        assert_eq!(ResourceEvent::from_network(-1), None);
    }

    #[test]
    fn each_kind_of_resource_counts_its_events_its_own_way() {
        let pool = |event: u32| ResourceEvent::from_pool(event as i32);
        assert_eq!(pool(sys::VIR_STORAGE_POOL_EVENT_CREATED), Some(ResourceEvent::Created));
        assert_eq!(pool(sys::VIR_STORAGE_POOL_EVENT_STOPPED), Some(ResourceEvent::Stopped));
        let device = |event: u32| ResourceEvent::from_node_device(event as i32);
        assert_eq!(device(sys::VIR_NODE_DEVICE_EVENT_CREATED), Some(ResourceEvent::Created));
        assert_eq!(device(sys::VIR_NODE_DEVICE_EVENT_UNDEFINED), Some(ResourceEvent::Undefined));
    }
}
