//! Operations of one worker on a VM of its own, with what must be true of each afterwards.
//!
//! Because nobody else touches the VM, its state before and after an operation is known, and a
//! verdict can be held against what libvirt says.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::{Client, Lab, Random, TASKS, V, eventually, guest};

/// What can be asked for, in every state of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Create,
    Delete,
    Start,
    ForceStop,
    /// Graceful, with force after a second: the guest is deaf.
    Stop,
    Pause,
    Resume,
    Update,
}

/// What stands, as far as these operations change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// virsh's word, or nothing if there is no such VM.
    pub state: Option<String>,
    pub description: String,
    /// The running VM's own, which an update changes separately.
    pub live: String,
}

impl Facts {
    /// As virsh tells; libvirtd may be on its way back.
    pub async fn of(lab: &Lab, name: &str) -> Facts {
        eventually("virsh answers", Duration::from_secs(30), async || {
            let state = match lab.try_virsh(&["domstate", name]) {
                Ok(state) => Some(state),
                // virsh says the same of a connection that breaks, so its list decides.
                Err(_) => {
                    let names = lab.try_virsh(&["list", "--all", "--name"]).ok()?;
                    if names.lines().any(|line| line.trim() == name) {
                        return None;
                    }
                    None
                }
            };
            let description = match &state {
                None => String::new(),
                Some(_) => lab.try_virsh(&["desc", name, "--config"]).ok()?,
            };
            let live = match &state {
                None => String::new(),
                Some(_) => lab.try_virsh(&["desc", name]).ok()?,
            };
            Some(Facts { state, description, live })
        })
        .await
    }

    fn is(&self, state: &str) -> bool {
        self.state.as_deref() == Some(state)
    }
}

/// One worker's VM and what it may do next.
pub struct Worker {
    pub name: String,
    pub random: Random,
    pub number: u64,
    /// Whether the VM has a disk of its own in the pool.
    pub disk: bool,
}

/// One operation as it was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub deed: Deed,
    pub method: &'static str,
    pub path: String,
    pub body: Value,
    /// The description that an update sets.
    pub description: String,
}

impl Worker {
    pub fn new(name: String, random: Random, disk: bool) -> Worker {
        Worker { name, random, number: 0, disk }
    }

    /// The body that makes the VM.
    pub fn body(&self) -> Value {
        let mut body = guest::empty_body(&self.name);
        if self.disk {
            body["storage"] =
                json!({"default_pool": "lab", "disks": [{"action": "create", "size": 1}]});
        }
        body
    }

    /// Something that the VM's state allows.
    pub fn next(&mut self, facts: &Facts, may_delete: bool) -> Request {
        let deeds: &[Deed] = match facts.state.as_deref() {
            None => &[Deed::Create],
            Some("shut off") if may_delete => {
                &[Deed::Start, Deed::Start, Deed::Update, Deed::Delete]
            }
            Some("shut off") => &[Deed::Start, Deed::Start, Deed::Update],
            Some("paused") => {
                &[Deed::Resume, Deed::Resume, Deed::Resume, Deed::ForceStop, Deed::Update]
            }
            Some(_) => &[Deed::Pause, Deed::Pause, Deed::Update, Deed::ForceStop, Deed::Stop],
        };
        let deed = *self.random.pick(deeds);
        self.number += 1;
        let vm = format!("{V}/{}", self.name);
        let action = |body: Value| ("POST", format!("{vm}/action"), body);
        let description = format!("{} number {}", self.name, self.number);
        let (method, path, body) = match deed {
            Deed::Create => ("POST", V.to_owned(), self.body()),
            Deed::Delete => ("DELETE", format!("{vm}?remove_disks=true"), Value::Null),
            Deed::Start => action(json!({"action": "start"})),
            Deed::ForceStop => action(json!({"action": "force-stop"})),
            Deed::Stop => action(json!({"action": "stop", "timeout": 1, "force": true})),
            Deed::Pause => action(json!({"action": "pause"})),
            Deed::Resume => action(json!({"action": "resume"})),
            Deed::Update => ("PATCH", vm, json!({"description": description})),
        };
        Request { deed, method, path, body, description }
    }
}

impl Request {
    /// As a call with this key, which waits for the outcome.
    pub fn call<'c>(&self, client: &'c Client, key: &str) -> Call<'c> {
        let call = client
            .call(self.method, self.path.clone())
            .header("idempotency-key", key)
            .header("prefer", "wait=30");
        if self.body.is_null() { call } else { call.json(&self.body) }
    }

    /// Whether this is what the operation was to bring about.
    pub fn is_met(&self, facts: &Facts) -> bool {
        match self.deed {
            Deed::Create => facts.is("shut off"),
            Deed::Delete => facts.state.is_none(),
            Deed::Start | Deed::Resume => facts.is("running"),
            Deed::ForceStop | Deed::Stop => facts.is("shut off"),
            Deed::Pause => facts.is("paused"),
            Deed::Update => facts.description == self.description && facts.live == self.description,
        }
    }

    /// Holds a finished task against what stands.
    pub fn check(&self, task: &Value, before: &Facts, after: &Facts) {
        let told = format!("{self:?}\nbefore {before:?}\nafter {after:?}\n{task:#}");
        match task["status"].as_str() {
            Some("succeeded") => assert!(self.is_met(after), "it is not so: {told}"),
            Some("failed") => {
                assert_eq!(after, before, "a failed operation changed something: {told}");
            }
            // What stands is told, where it can be.
            Some("interrupted") => {
                if let Some(state) = task["error"]["details"]["state"].as_str() {
                    let virsh = match state {
                        "shutoff" => "shut off",
                        "gone" => "",
                        other => other,
                    };
                    let found = after.state.as_deref().unwrap_or_default();
                    assert_eq!(found, virsh, "it says what is not so: {told}");
                }
                let fields = task["error"]["details"]["fields"].as_array();
                if fields.is_some_and(|fields| !fields.is_empty()) {
                    assert!(!self.is_met(after), "it says that it is not as wanted: {told}");
                }
                if self.deed == Deed::Create {
                    assert!(after.state.is_none(), "an interrupted creation is undone: {told}");
                }
            }
            _ => panic!("neither succeeded nor failed: {told}"),
        }
    }
}

/// The task as soon as it has finished, whatever happens to the daemon meanwhile.
pub async fn finished(client: &Client, id: &str, within: Duration) -> Value {
    eventually(&format!("task {id} is finished"), within, async || {
        let call = client.call("GET", format!("{TASKS}/{id}?wait=5"));
        let reply = call.try_send().await.ok()?;
        assert_ne!(reply.status, 404, "a task is lost: {reply:?}");
        let task = (reply.status == 200).then(|| reply.data().clone())?;
        crate::support::client::is_finished(&task).then_some(task)
    })
    .await
}
