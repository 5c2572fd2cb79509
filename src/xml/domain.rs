//! Domain XML: what it says ([`view`]), new ones ([`author`]), changed ones ([`edit`]), and what
//! differs between the running one and the next boot ([`pending`]).

pub mod author;
pub mod edit;
pub mod pending;
pub mod view;

/// The namespace of Vapor's element in `<metadata>`, as `virDomainSetMetadata` takes it.
pub const METADATA_URI: &str = "urn:vapor:vm:1";
/// The prefix of that namespace, `virDomainSetMetadata`'s `key`.
pub const METADATA_PREFIX: &str = "vapor";
