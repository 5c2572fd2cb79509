//! What a closure on a worker holds while it speaks with libvirt.

use std::marker::PhantomData;
use std::sync::Arc;

use virt::connect::Connect;

use super::connection::Link;
use super::error::{What, translate};
use crate::error::{Error, Kind, Result};

/// One connection, lent to one closure on one worker thread.
///
/// It is neither `Send` nor `Sync` and only ever lent, so nothing of libvirt leaves the closure:
///
/// ```compile_fail
/// fn needs_send<T: Send>() {}
/// needs_send::<vapor::libvirt::Session>();
/// ```
pub struct Session {
    link: Arc<Link>,
    stays: PhantomData<*const ()>,
}

impl Session {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Session { link, stays: PhantomData }
    }

    /// Whether this is libvirt's test driver, which lacks some flags and calls.
    pub fn is_test_driver(&self) -> bool {
        self.link.driver() == "TEST"
    }

    /// Whether this is the QEMU driver (also behind a proxy or a remote URI).
    pub fn is_qemu(&self) -> bool {
        self.link.driver() == "QEMU"
    }

    /// The version of the libvirt that serves this connection: major * 1,000,000 + minor * 1,000 +
    /// release.
    pub fn libvirt_version(&self) -> u32 {
        self.link.libvirt_version()
    }

    pub(super) fn connect(&self) -> &Connect {
        self.link.connect()
    }

    /// Turns libvirt's error into ours; for `map_err`. `doing` is a verb such as `start`.
    pub(super) fn failed<'a>(
        &'a self,
        doing: &'a str,
        what: What<'a>,
    ) -> impl FnOnce(virt::error::Error) -> Error + 'a {
        move |error| {
            let alive = self.link.is_alive();
            let error = translate(&error, doing, &what, alive);
            match error.kind() {
                Kind::LibvirtUnavailable => {
                    error.with_retry_after(std::time::Duration::from_secs(1))
                }
                _ => error,
            }
        }
    }
}

/// Refuses text that C cannot carry, before it reaches a binding that would panic on it.
pub(super) fn without_nul(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') {
        return Err(Error::field(what, "contains a NUL character"));
    }
    Ok(())
}
