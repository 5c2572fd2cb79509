//! HTTP, and nothing but HTTP.

pub mod accept;
pub mod contract;
pub mod json;
pub mod params;
pub mod reply;
pub mod status;
