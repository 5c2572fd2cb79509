//! HTTP, and nothing but HTTP.

pub mod accept;
pub mod body;
pub mod contract;
pub mod io;
pub mod json;
pub mod layers;
pub mod meters;
pub mod params;
pub mod reply;
pub mod server;
pub mod socket;
pub mod state;
pub mod status;

use std::time::Duration;

/// The longest that a client may ask to wait.
pub const MAX_WAIT: Duration = Duration::from_secs(300);
