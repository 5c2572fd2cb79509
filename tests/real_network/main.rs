//! Networks on a real libvirtd, with its DNS and DHCP server, bridges of the host's, and guests.

#[path = "../support/mod.rs"]
mod support;

mod guests;
mod kill9;
mod modes;
mod refusals;
mod services;
