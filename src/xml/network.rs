//! Network XML: what a definition says ([`view`]), what elements are made of ([`build`]), and
//! changes to it ([`edit`]). A new definition is an edit of an empty one.

pub mod build;
pub mod edit;
pub mod pending;
pub mod port;
#[cfg(test)]
mod tests;
pub mod view;

pub use view::parse_network;
