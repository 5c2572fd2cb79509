//! The only room that names the `virt` crate.
