//! Faults, with real parts: what is killed, stopped, flooded and filled up, and what must hold all
//! the same. Each test runs alone (`.config/nextest.toml`).

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod daemon;
mod hang;
mod kill9;
mod libvirtd;
mod operations;
