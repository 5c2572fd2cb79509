//! libvirt's events in the words of the event stream.

use std::collections::VecDeque;

use serde_json::{Value, json};
use uuid::Uuid;

use super::picture::Picture;
use crate::libvirt::{DomainEvent, LibvirtEvent, ResourceEvent};
use crate::model::{Subject, SubjectType};
use crate::service::gate::{Gate, Holder, Key};
use crate::store::NewEvent;

/// An event and whose work it is.
pub(super) struct Happened {
    pub event: LibvirtEvent,
    pub cause: Option<Holder>,
}

/// Finds out whose work events are.
pub(super) struct Causes {
    gate: Gate,
    /// Which tasks have had which events of pools and networks, newest last.
    told: VecDeque<(Uuid, ResourceEvent)>,
}

/// How many of them are remembered: far more than come at once.
const TOLD: usize = 256;

impl Causes {
    pub(super) fn new(gate: Gate) -> Self {
        Causes { gate, told: VecDeque::new() }
    }

    /// To be called as soon as the event comes: later somebody else may hold what it is about.
    pub(super) fn attribute(&mut self, event: LibvirtEvent) -> Happened {
        let gate = &self.gate;
        let cause = match &event {
            LibvirtEvent::Domain { uuid, event, .. } => {
                gate.cause(&Key::Vm(*uuid), |holder| may_cause(holder, event))
            }
            LibvirtEvent::Pool { name, event, .. } => {
                self.cause_of(&Key::Pool(name.clone()), *event, of_pools)
            }
            LibvirtEvent::Network { name, event, .. } => {
                self.cause_of(&Key::Network(name.clone()), *event, of_networks)
            }
            LibvirtEvent::Connected { .. }
            | LibvirtEvent::Disconnected { .. }
            | LibvirtEvent::NodeDevice { .. } => None,
        };
        Happened { event, cause }
    }

    /// Operations on a pool or network are quick and follow each other closely, and each causes an
    /// event once: the news is that of the oldest one that explains it best and has not had it yet.
    fn cause_of(
        &mut self,
        key: &Key,
        event: ResourceEvent,
        explanations: fn(ResourceEvent) -> Explanations,
    ) -> Option<Holder> {
        let explains = |holder: &Holder| likelihood(holder.kind, explanations(event));
        let mut causes = self.gate.causes(key);
        causes.retain(|holder| explains(holder) != Likelihood::Never);
        let is_new = |holder: &Holder| !self.told.contains(&(holder.task, event));
        let of =
            |wanted| causes.iter().find(move |holder| explains(holder) == wanted && is_new(holder));
        let cause = of(Likelihood::Surely).or_else(|| of(Likelihood::Perhaps)).or(causes.last());
        let cause = cause.cloned()?;
        self.told.push_back((cause.task, event));
        if self.told.len() > TOLD {
            self.told.pop_front();
        }
        Some(cause)
    }
}

/// Whether operations of this kind change the stored definitions of the VMs that they hold: all but
/// those that only turn them on and off.
pub(super) fn redefines(kind: &str) -> bool {
    let on_vms = kind.starts_with("vm.") || kind.starts_with("template.");
    let not_these = matches!(
        kind,
        "vm.start"
            | "vm.stop"
            | "vm.force-stop"
            | "vm.restart"
            | "vm.reboot"
            | "vm.reset"
            | "vm.pause"
            | "vm.resume"
            | "vm.save"
            | "vm.restore-saved"
            | "vm.delete"
    );
    on_vms && !not_these
}

/// Whether operations of this kind do such things. What a guest does by itself is nobody's task.
fn may_cause(holder: &Holder, event: &DomainEvent) -> bool {
    let (task, starts) = (holder.kind, holder.starts);
    let defines = redefines(task);
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

/// How well an operation explains a piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Likelihood {
    Never,
    /// Only if it fails.
    Perhaps,
    Surely,
}

/// The kinds of task that surely cause a piece of news, and those that may.
type Explanations = (&'static [&'static str], &'static [&'static str]);

/// One that cannot be refreshed stops, and one that cannot be made is undone.
fn of_pools(event: ResourceEvent) -> Explanations {
    match event {
        ResourceEvent::Defined => (&["pool.create", "pool.update"], &[]),
        ResourceEvent::Created => (&["pool.create", "pool.update"], &[]),
        ResourceEvent::Started => (&["pool.create", "pool.start"], &["pool.delete"]),
        ResourceEvent::Stopped => (&["pool.stop", "pool.delete"], &["pool.refresh", "pool.create"]),
        ResourceEvent::Undefined | ResourceEvent::Deleted => (&["pool.delete"], &["pool.create"]),
        ResourceEvent::Refreshed => (&["pool.refresh", "pool.delete"], &[]),
        ResourceEvent::Updated | ResourceEvent::MetadataChanged => (&[], &[]),
    }
}

/// One that cannot be made is undone, and one whose deletion fails is put back.
fn of_networks(event: ResourceEvent) -> Explanations {
    match event {
        ResourceEvent::Defined | ResourceEvent::Created => {
            (&["network.create", "network.update"], &["network.delete"])
        }
        ResourceEvent::Started => (&["network.create", "network.start"], &["network.delete"]),
        ResourceEvent::Stopped => (&["network.stop", "network.delete"], &["network.create"]),
        ResourceEvent::Undefined | ResourceEvent::Deleted => {
            (&["network.delete"], &["network.create"])
        }
        ResourceEvent::Updated | ResourceEvent::MetadataChanged => (&["network.update"], &[]),
        ResourceEvent::Refreshed => (&[], &[]),
    }
}

fn likelihood(task: &str, (surely, perhaps): Explanations) -> Likelihood {
    if surely.contains(&task) {
        Likelihood::Surely
    } else if perhaps.contains(&task) {
        Likelihood::Perhaps
    } else {
        Likelihood::Never
    }
}

/// The announcement of one event, or `None` if it says nothing to a client.
pub(super) fn announce(happened: &Happened, picture: &Picture) -> Option<NewEvent> {
    match &happened.event {
        LibvirtEvent::Connected { .. } => Some(host("libvirt.connected", json!({}))),
        LibvirtEvent::Disconnected { reason } => {
            Some(host("libvirt.disconnected", json!({ "reason": reason })))
        }
        // The new name is announced; the VM is still there.
        LibvirtEvent::Domain { event: DomainEvent::Undefined { renamed: true }, .. } => None,
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
            let cause = happened.cause.as_ref();
            Some(resource(SubjectType::Network, "network", &uuid.to_string(), name, *event, cause))
        }
        LibvirtEvent::Pool { uuid, name, event } => {
            let cause = happened.cause.as_ref();
            let mut told =
                resource(SubjectType::Pool, "pool", &uuid.to_string(), name, *event, cause);
            if let Some(record) = picture.pools.iter().find(|known| known.pool.uuid == *uuid) {
                let (state, problem) = (record.pool.state, &record.pool.problem);
                told.data = json!({ "state": state, "problem": problem });
            }
            Some(told)
        }
        LibvirtEvent::NodeDevice { name, event } => {
            Some(resource(SubjectType::Device, "device", name, name, *event, None))
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
    cause: Option<&Holder>,
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
        principal: cause.map(|holder| holder.principal.clone()),
        task: cause.map(|holder| holder.task),
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
