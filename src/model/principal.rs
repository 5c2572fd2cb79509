//! Who speaks to the daemon.

use std::fmt;

/// The caller of a request, as far as the transport proves it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A process on the Unix socket, by the credentials the kernel vouches for.
    Local { uid: u32, name: Option<String> },
    /// A client on loopback TCP; until access control exists nothing more is known of it.
    Loopback,
    /// Vapor itself.
    System,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Local { name: Some(name), .. } => write!(f, "unix:{name}"),
            Principal::Local { uid, name: None } => write!(f, "unix:{uid}"),
            Principal::Loopback => f.write_str("tcp:loopback"),
            Principal::System => f.write_str("system"),
        }
    }
}
