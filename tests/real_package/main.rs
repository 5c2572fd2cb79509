//! The packages: what is in them, and what becomes of it on a fresh Debian with systemd, in a
//! container of its own. They are made of the binaries that these tests are built with.

#[path = "../support/mod.rs"]
mod support;

mod contents;
mod installed;
mod units;
