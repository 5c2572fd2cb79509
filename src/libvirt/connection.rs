//! One libvirt connection, from opening to closing.
//!
//! A [`Link`] is shared: the supervisor holds it in the slots, every running call holds it too. It
//! closes when the last of them lets go, so a call that is still stuck in a replaced connection never
//! finds it freed. Before that the supervisor must [`Link::retire`] it: registered callbacks hold
//! references of their own, and with them the connection would never close.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use virt::connect::Connect;

use super::event::LibvirtEvent;
use super::ffi::event_loop;
use super::ffi::events::{
    CloseNotice, Subscription, subscribe, unsubscribe, unwatch_close, watch_close,
};
use super::hypervisor::HypervisorConfig;

/// An open connection and what is registered on it.
pub(super) struct Link {
    connect: Connect,
    driver: String,
    libvirt_version: u32,
    registered: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    close: bool,
    events: Option<Subscription>,
}

impl Link {
    /// Opens a connection and turns keepalive on. Blocks until libvirt answers.
    pub(super) fn open(config: &HypervisorConfig) -> Result<Link, virt::error::Error> {
        let connect = connect(config)?;
        let interval =
            i32::try_from(config.keepalive_interval.as_secs().max(1)).unwrap_or(i32::MAX);
        if let Err(error) = connect.set_keep_alive(interval, config.keepalive_count) {
            // The test driver has no transport to keep alive.
            tracing::debug!(%error, "no keepalive on this connection");
        }
        Link::of(connect)
    }

    /// Opens a connection whose socket only its callers read: without events and keepalive, and with
    /// libvirt's peer waiting for whoever does not read.
    pub(super) fn open_apart(config: &HypervisorConfig) -> Result<Link, virt::error::Error> {
        Link::of(event_loop::apart(|| connect(config))?)
    }

    fn of(connect: Connect) -> Result<Link, virt::error::Error> {
        let driver = connect.driver_type()?;
        let libvirt_version = connect.lib_version()?;
        Ok(Link { connect, driver, libvirt_version, registered: Mutex::default() })
    }

    pub(super) fn connect(&self) -> &Connect {
        &self.connect
    }

    /// libvirt's name of the driver: `QEMU`, `LXC`, `TEST`, …
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    pub(super) fn libvirt_version(&self) -> u32 {
        self.libvirt_version
    }

    /// Whether the transport stands, as far as this process knows. Makes no remote call.
    pub(super) fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    pub(super) fn on_close(&self, notice: CloseNotice) {
        watch_close(&self.connect, notice);
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).close = true;
    }

    pub(super) fn subscribe(&self, sink: &UnboundedSender<LibvirtEvent>) {
        let subscription = subscribe(&self.connect, sink);
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).events = Some(subscription);
    }

    /// Gives every callback back, so that the connection closes with its last user. Makes remote calls
    /// that wait for libvirt if the transport still stands.
    pub(super) fn retire(&self) {
        let registered =
            std::mem::take(&mut *self.registered.lock().unwrap_or_else(PoisonError::into_inner));
        if registered.close {
            unwatch_close(&self.connect);
        }
        if let Some(subscription) = registered.events {
            unsubscribe(&self.connect, subscription);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that opens connections")]
fn connect(config: &HypervisorConfig) -> Result<Connect, virt::error::Error> {
    // The binding panics on a NUL; `Hypervisor::start` has refused such a URI.
    Connect::open(Some(&config.uri))
}
