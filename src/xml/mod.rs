//! Text to model and back. No other room reads or writes libvirt's XML.
//!
//! What Vapor *edits* goes through a lossless [`tree`]: a document that was made by virsh,
//! virt-manager or by hand keeps every byte that the edit does not concern. What Vapor *reads*
//! becomes model types in one pass over the same tree. What Vapor *authors* is built from elements
//! whose names are literals and whose values are escaped on the way in, so that nothing a client
//! sends can become markup.
//!
//! Called by `service/`; nothing here does I/O or knows libvirt's connection.

pub mod capabilities;
pub mod diff;
pub mod domain;
pub mod network;
pub mod os_variant;
pub mod pool;
pub mod redact;
pub mod tree;
mod units;
pub mod volume;
