//! Vapor: a REST daemon and a command line for a single libvirt host.
//!
//! The rooms, and which may use which, are described in docs/architecture.md; a test holds the
//! code to it.

pub mod api;
pub mod authz;
pub mod bus;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod error;
pub mod libvirt;
pub mod model;
pub mod service;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod xml;
