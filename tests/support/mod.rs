//! What the tests with real parts share: a private libvirtd, the built `vapord` as a process, a
//! client on its socket, and waiting for conditions. Nothing here pretends to be a part of Vapor.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

pub mod client;
pub mod container;
pub mod daemon;
pub mod guest;
pub mod hostvm;
pub mod lab;
pub mod package;
pub mod random;
pub mod unit;
pub mod wait;

use std::time::Duration;

use serde_json::Value;

pub use client::{Call, Client, Reply};
pub use container::Container;
pub use daemon::{Settings, Vapord};
pub use hostvm::{Hardware, HostVm};
pub use lab::Lab;
pub use random::Random;
pub use wait::eventually;

/// The VMs' path.
pub const V: &str = "/api/v1/virtualization/virtualmachines";
/// The networks' path.
pub const NETWORKS: &str = "/api/v1/virtualization/networks";
/// The tasks' path.
pub const TASKS: &str = "/api/v1/tasks";

/// What happens at once on an idle machine; the tests' machine may be busy.
pub const SOON: Duration = Duration::from_secs(20);
/// What takes a guest that boots in emulation.
pub const BOOT: Duration = Duration::from_secs(240);

/// A libvirtd and a `vapord` on it. Fields end in this order.
pub struct World {
    pub client: Client,
    pub daemon: Vapord,
    pub lab: Lab,
}

impl World {
    /// A fresh world, or `None` where the lab's tools are missing.
    pub async fn start(name: &str) -> Option<World> {
        World::with(name, |_| {}).await
    }

    /// The same, with other settings.
    pub async fn with(name: &str, adjust: impl FnOnce(&mut Settings)) -> Option<World> {
        let lab = Lab::start(name)?;
        let mut settings = Settings::new(name, &lab.uri());
        adjust(&mut settings);
        let daemon = Vapord::start(settings).await;
        Some(World { client: daemon.client(), daemon, lab })
    }

    /// A fresh world in which the daemon has libvirtd's network, as on a real host.
    pub async fn on_one_host(name: &str) -> Option<World> {
        let lab = Lab::start(name)?;
        let mut settings = Settings::new(name, &lab.uri());
        settings.beside = Some(lab.holder());
        let daemon = Vapord::start(settings).await;
        Some(World { client: daemon.client(), daemon, lab })
    }

    /// Makes a VM of the tiny guest through the API; running if `start`.
    pub async fn make(&self, name: &str, start: bool) -> Value {
        let mut body = guest::body(name);
        body["start"] = start.into();
        let reply = self.client.post(V, &body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.data().clone()
    }

    /// Waits until the guest's agent has told its address.
    pub async fn booted(&self, name: &str) -> Value {
        self.lab.watch_console(name);
        eventually(&format!("the guest of {name} tells its address"), BOOT, async || {
            let vm = self.client.vm(name).await;
            let details = &vm["runtimeDetails"];
            // The lease may be known before the agent answers.
            (details["guest_agent"] == "connected" && details["primary_address"].is_string())
                .then_some(vm)
        })
        .await
    }

    /// Waits until the VM is in this state.
    pub async fn in_state(&self, name: &str, state: &str, within: Duration) -> Value {
        eventually(&format!("{name} is {state}"), within, async || {
            let vm = self.client.vm(name).await;
            (vm["state"] == state).then_some(vm)
        })
        .await
    }

    /// Ends the daemon as systemd would: it must go with exit status 0 and without a panic.
    pub async fn finish(mut self) {
        self.daemon.finish().await;
    }
}
