//! Domain XML: what it says ([`view`]), new ones ([`author`]), changed ones ([`edit`]), and what
//! differs between the running one and the next boot ([`pending`]); whose the firmware's variables
//! are ([`firmware`]); what a guest is told at its first boot ([`seed`], [`ignition`]).

pub mod author;
pub mod backup;
pub mod clone;
#[cfg(test)]
mod corpus;
pub mod custom;
pub mod edit;
pub mod firmware;
pub mod ignition;
pub mod media;
pub mod pending;
pub mod seed;
pub mod view;

/// The namespace of Vapor's element in `<metadata>`, as `virDomainSetMetadata` takes it.
pub const METADATA_URI: &str = "urn:vapor:vm:1";
/// The prefix of that namespace, `virDomainSetMetadata`'s `key`.
pub const METADATA_PREFIX: &str = "vapor";

const LIBOSINFO_URI: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";
/// The name of the virtio port that a guest agent listens on.
const GUEST_AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";
