//! libvirt's events in the words of the event stream.

use serde_json::{Value, json};

use super::picture::Picture;
use crate::libvirt::{DomainEvent, LibvirtEvent, ResourceEvent};
use crate::model::{Subject, SubjectType};
use crate::service::gate::{Gate, Key};
use crate::store::NewEvent;

/// The announcement of one event, or `None` if it says nothing to a client. Who caused it is
/// known where an operation of Vapor's holds the VM.
pub(super) fn announce(event: &LibvirtEvent, picture: &Picture, gate: &Gate) -> Option<NewEvent> {
    match event {
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
            let holder = gate.holder(&Key::Vm(*uuid));
            Some(NewEvent {
                kind: kind.to_owned(),
                subject: Subject {
                    r#type: SubjectType::Vm,
                    id: uuid.to_string(),
                    name: name.clone(),
                },
                principal: holder.as_ref().map(|holder| holder.principal.clone()),
                task: holder.map(|holder| holder.task),
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
