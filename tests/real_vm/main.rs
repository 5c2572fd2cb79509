//! The whole life of real guests, through the API of the built daemon, on a private libvirtd.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod crowd;
mod devices;
mod events;
mod firmware;
mod foreign;
mod history;
mod life;
mod power;
mod tuning;
mod update;
