//! Tests of the room as its callers see it, on libvirt's test driver.

mod lanes;
mod nouns;
mod reconnect;
