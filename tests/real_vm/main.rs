//! The whole life of real guests, through the API of the built daemon, on a private libvirtd.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod events;
mod foreign;
mod life;
mod power;
mod update;
