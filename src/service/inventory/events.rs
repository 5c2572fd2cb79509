//! libvirt's events in the words of the event stream.

use serde_json::{Value, json};

use super::picture::Picture;
use crate::libvirt::{DomainEvent, LibvirtEvent, ResourceEvent};
use crate::model::{Subject, SubjectType};
use crate::service::gate::{Gate, Holder};
use crate::store::NewEvent;

/// An event and whose work it is.
pub(super) struct Happened {
    pub event: LibvirtEvent,
    pub cause: Option<Holder>,
}

impl Happened {
    /// To be called as soon as the event comes: later somebody else may hold the VM.
    pub(super) fn now(event: LibvirtEvent, gate: &Gate) -> Happened {
        let cause = match &event {
            LibvirtEvent::Domain { uuid, event, .. } => {
                gate.cause(*uuid, |holder| may_cause(holder, event))
            }
            LibvirtEvent::Connected { .. }
            | LibvirtEvent::Disconnected { .. }
            | LibvirtEvent::Network { .. }
            | LibvirtEvent::Pool { .. }
            | LibvirtEvent::NodeDevice { .. } => None,
        };
        Happened { event, cause }
    }
}

/// Whether operations of this kind do such things. What a guest does by itself is nobody's task.
fn may_cause(holder: &Holder, event: &DomainEvent) -> bool {
    let (task, starts) = (holder.kind, holder.starts);
    let defines = matches!(task, "vm.create" | "vm.update" | "vm.define");
    match event {
        DomainEvent::Started { .. } => starts,
        DomainEvent::Suspended { .. } => starts || matches!(task, "vm.pause" | "vm.save"),
        DomainEvent::Resumed { .. } => {
            starts || matches!(task, "vm.resume" | "vm.save" | "vm.reboot" | "vm.reset")
        }
        DomainEvent::Stopped { .. } | DomainEvent::ShutdownFinished { .. } => {
            // A creation whose start fails is undone.
            (task == "vm.create" && starts)
                || matches!(
                    task,
                    "vm.stop" | "vm.force-stop" | "vm.restart" | "vm.save" | "vm.delete"
                )
        }
        DomainEvent::Rebooted => matches!(task, "vm.reboot" | "vm.reset"),
        DomainEvent::PmWakeup => task == "vm.resume",
        DomainEvent::Defined { .. } | DomainEvent::MetadataChanged => defines,
        DomainEvent::Undefined { .. } => matches!(task, "vm.delete" | "vm.create"),
        DomainEvent::BalloonChanged { .. }
        | DomainEvent::MemoryDeviceResized { .. }
        | DomainEvent::DeviceAdded { .. }
        | DomainEvent::DeviceRemoved { .. }
        | DomainEvent::DeviceRemovalFailed { .. }
        | DomainEvent::MediaChanged { .. }
        | DomainEvent::TunableChanged => task == "vm.update",
        DomainEvent::JobCompleted
        | DomainEvent::BlockJob { .. }
        | DomainEvent::MigrationIteration { .. } => true,
        DomainEvent::PmSuspended { .. }
        | DomainEvent::Crashed { .. }
        | DomainEvent::AgentConnected
        | DomainEvent::AgentDisconnected
        | DomainEvent::IoError { .. }
        | DomainEvent::WatchdogFired { .. }
        | DomainEvent::BlockThreshold { .. }
        | DomainEvent::ControlError
        | DomainEvent::MemoryFailure => false,
    }
}

/// The announcement of one event, or `None` if it says nothing to a client.
pub(super) fn announce(happened: &Happened, picture: &Picture) -> Option<NewEvent> {
    match &happened.event {
        LibvirtEvent::Connected { .. } => Some(host("libvirt.connected", json!({}))),
        LibvirtEvent::Disconnected { reason } => {
            Some(host("libvirt.disconnected", json!({ "reason": reason })))
        }
        LibvirtEvent::Domain { uuid, name, event } => {
            let (kind, mut data) = domain(event);
            let record = picture.by_uuid.get(uuid);
            if let (Some(record), Value::Object(data)) = (record, &mut data) {
                data.insert("state".to_owned(), json!(record.vm.state));
                data.insert("labels".to_owned(), json!(record.vm.labels));
                data.insert("generation".to_owned(), json!(record.vm.generation));
            }
            let cause = happened.cause.as_ref();
            Some(NewEvent {
                kind: kind.to_owned(),
                subject: Subject {
                    r#type: SubjectType::Vm,
                    id: uuid.to_string(),
                    name: name.clone(),
                },
                principal: cause.map(|holder| holder.principal.clone()),
                task: cause.map(|holder| holder.task),
                data,
            })
        }
        LibvirtEvent::Network { uuid, name, event } => {
            Some(resource(SubjectType::Network, "network", &uuid.to_string(), name, *event))
        }
        LibvirtEvent::Pool { uuid, name, event } => {
            Some(resource(SubjectType::Pool, "pool", &uuid.to_string(), name, *event))
        }
        LibvirtEvent::NodeDevice { name, event } => {
            Some(resource(SubjectType::Device, "device", name, name, *event))
        }
    }
}

fn host(kind: &str, data: Value) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        subject: Subject {
            r#type: SubjectType::Host,
            id: "libvirt".to_owned(),
            name: "libvirt".to_owned(),
        },
        principal: None,
        task: None,
        data,
    }
}

fn resource(
    r#type: SubjectType,
    noun: &str,
    id: &str,
    name: &str,
    event: ResourceEvent,
) -> NewEvent {
    let verb = match event {
        ResourceEvent::Defined => "defined",
        ResourceEvent::Undefined => "undefined",
        ResourceEvent::Started => "started",
        ResourceEvent::Stopped => "stopped",
        ResourceEvent::Created => "created",
        ResourceEvent::Deleted => "deleted",
        ResourceEvent::Refreshed => "refreshed",
        ResourceEvent::Updated => "updated",
        ResourceEvent::MetadataChanged => "metadata-changed",
    };
    NewEvent {
        kind: format!("{noun}.{verb}"),
        subject: Subject { r#type, id: id.to_owned(), name: name.to_owned() },
        principal: None,
        task: None,
        data: json!({}),
    }
}

/// The word and the data of a domain's event.
fn domain(event: &DomainEvent) -> (&'static str, Value) {
    match event {
        DomainEvent::Defined { added: true, .. } => ("vm.defined", json!({})),
        DomainEvent::Defined { renamed: true, .. } => ("vm.renamed", json!({})),
        DomainEvent::Defined { .. } => ("vm.updated", json!({})),
        DomainEvent::Undefined { .. } => ("vm.undefined", json!({})),
        DomainEvent::Started { detail } => ("vm.started", json!({ "reason": detail })),
        DomainEvent::Suspended { detail } => ("vm.paused", json!({ "reason": detail })),
        DomainEvent::Resumed { detail } => ("vm.resumed", json!({ "reason": detail })),
        DomainEvent::Stopped { detail } => ("vm.stopped", json!({ "reason": detail })),
        DomainEvent::ShutdownFinished { detail } => {
            ("vm.shutdown-finished", json!({ "reason": detail }))
        }
        DomainEvent::PmSuspended { detail } => ("vm.sleeping", json!({ "reason": detail })),
        DomainEvent::PmWakeup => ("vm.woken", json!({})),
        DomainEvent::Crashed { detail } => ("vm.crashed", json!({ "reason": detail })),
        DomainEvent::Rebooted => ("vm.rebooted", json!({})),
        DomainEvent::AgentConnected => ("vm.agent-connected", json!({})),
        DomainEvent::AgentDisconnected => ("vm.agent-disconnected", json!({})),
        DomainEvent::BalloonChanged { kib } => {
            ("vm.memory-changed", json!({ "memory": kib.div_ceil(1024) }))
        }
        DomainEvent::MemoryDeviceResized { alias, kib } => {
            ("vm.memory-device-resized", json!({ "alias": alias, "memory": kib.div_ceil(1024) }))
        }
        DomainEvent::DeviceAdded { alias } => ("vm.device-added", json!({ "alias": alias })),
        DomainEvent::DeviceRemoved { alias } => ("vm.device-removed", json!({ "alias": alias })),
        DomainEvent::DeviceRemovalFailed { alias } => {
            ("vm.device-removal-failed", json!({ "alias": alias }))
        }
        DomainEvent::MetadataChanged => ("vm.metadata-changed", json!({})),
        DomainEvent::MediaChanged { alias, what } => {
            ("vm.media-changed", json!({ "alias": alias, "what": what }))
        }
        DomainEvent::IoError { alias, path, reason, paused } => (
            "vm.io-error",
            json!({ "alias": alias, "path": path, "reason": reason, "paused": paused }),
        ),
        DomainEvent::WatchdogFired { action } => ("vm.watchdog-fired", json!({ "action": action })),
        DomainEvent::BlockJob { disk, kind, status } => {
            ("vm.block-job", json!({ "disk": disk, "job": kind, "status": status }))
        }
        DomainEvent::BlockThreshold { disk, threshold, excess } => (
            "vm.block-threshold",
            json!({ "disk": disk, "threshold_bytes": threshold, "excess_bytes": excess }),
        ),
        DomainEvent::JobCompleted => ("vm.job-completed", json!({})),
        DomainEvent::MigrationIteration { iteration } => {
            ("vm.migration-iteration", json!({ "iteration": iteration }))
        }
        DomainEvent::TunableChanged => ("vm.tunable-changed", json!({})),
        DomainEvent::ControlError => ("vm.control-error", json!({})),
        DomainEvent::MemoryFailure => ("vm.memory-failure", json!({})),
    }
}
