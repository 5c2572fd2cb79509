//! The only room that names the `virt` crate: everything Vapor asks of libvirt goes through here.
//!
//! Called by the service room alone, in one shape: `hypervisor.run(lane, deadline, |session| …)`.
//! The closure runs on a worker thread of a bounded lane, gets a [`Session`] that cannot leave it,
//! calls the free functions of the noun modules ([`domain`], [`pool`], [`volume`], [`network`],
//! [`host`], [`agent`]) and returns plain data.
//!
//! ```text
//!  async caller ── run ──▶ lane queue (bounded) ──▶ worker thread ──▶ connection of that worker
//!       ▲                        │                        │                    ▲
//!       └── result or deadline ◀─┴── refused at once ─────┘        opened, watched, replaced by
//!           (the call goes on)       while libvirt is away         the supervisor thread
//!
//!  event loop thread (one per process) ──▶ callbacks (copy, send, return) ──▶ LibvirtEvent channel
//! ```
//!
//! What keeps one hung guest from delaying the rest:
//! - libvirtd serves five calls of a client at a time and stops reading that client's socket at the
//!   fifth, keepalive included. A connection is therefore shared by at most four workers.
//! - A worker whose call has outlived its caller's deadline counts as stuck and is replaced by a
//!   spare, within a bound that leaves libvirtd's own worker pool (20 by default) air.
//! - Bulk calls ask only for what libvirt knows without the QEMU monitor.
//!
//! - A stream of a volume's bytes has a thread and a connection of its own ([`stream`]).
//!
//! `unsafe` stands in `ffi/` alone.

pub mod agent;
mod buffers;
mod connection;
pub mod contents;
pub mod domain;
mod error;
mod event;
mod ffi;
pub mod host;
mod hypervisor;
mod lane;
pub mod network;
pub mod pool;
mod session;
pub mod stream;
mod supervisor;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod volume;

pub use event::{DomainEvent, LibvirtEvent, ResourceEvent};
pub use hypervisor::{Hypervisor, HypervisorConfig};
pub use lane::{Lane, LaneGauge};
pub use session::Session;
pub use stream::{VolumeReader, VolumeWriter, WRITTEN};

/// Settings of the whole process that libvirt's way with memory asks for; to be called before the
/// first thread is started.
pub fn prepare_process() {
    ffi::memory::set_up_allocator();
    // Relocation and initialization of the libraries are over.
    ffi::memory::let_go_of_code();
}

/// Gives back to the system what bulk replies have left free; takes some milliseconds.
pub fn give_back_memory() {
    ffi::memory::give_back();
}

/// Lets go of code that ran once; it is mapped again where it runs.
pub fn let_go_of_code() {
    ffi::memory::let_go_of_code();
}
