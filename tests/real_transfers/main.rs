//! Uploads, downloads and imports on a private libvirtd, byte by byte.

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod images;
mod import;
mod limits;
mod plain;
mod tus;
