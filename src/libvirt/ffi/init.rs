//! What must happen once per process before the first connection: error handler and event loop.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use virt::sys;

use crate::error::{Error, Kind, Result};

/// libvirt's default handler prints every error on stderr. Errors reach us as return values; this
/// handler keeps them there.
unsafe extern "C" fn silent(_data: *mut c_void, _error: sys::virErrorPtr) {}

/// How often the event loop comes round at least, so that one that hangs is told from one that rests.
const BEAT: Duration = Duration::from_secs(5);

/// When the event loop last came round, in milliseconds since [`origin`].
static LAST_ROUND: AtomicU64 = AtomicU64::new(0);

fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(Instant::now)
}

/// Since when the event loop has not come round: more than a few beats mean that it hangs.
pub(in crate::libvirt) fn event_loop_silence() -> Duration {
    let last = Duration::from_millis(LAST_ROUND.load(Ordering::Relaxed));
    origin().elapsed().saturating_sub(last)
}

/// Initialises libvirt and starts the event loop thread, once per process however often it is called.
///
/// The loop runs until the process ends: libvirt has no way to unregister it, and a later
/// `Hypervisor` in the same process needs it again.
pub(in crate::libvirt) fn initialise() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: virInitialize takes nothing and may be called from any thread, any number of times.
        if unsafe { sys::virInitialize() } < 0 {
            return Err(super::last_error().to_string());
        }
        // SAFETY: the handler is a function that lives as long as the process and ignores its data.
        unsafe { sys::virSetErrorFunc(std::ptr::null_mut(), Some(silent)) };
        // The loop must be registered before the first connection is opened, or that connection
        // has neither events nor keepalive.
        super::event_loop::register().map_err(|error| error.to_string())?;
        std::thread::Builder::new()
            .name("lv-event".to_owned())
            .spawn(event_loop)
            .map_err(|error| error.to_string())?;
        Ok(())
    })
    .clone()
    .map_err(|reason| {
        Error::new(Kind::LibvirtUnavailable, "libvirt cannot be initialised in this process")
            .with_source(reason)
    })
}

fn event_loop() {
    loop {
        let now = u64::try_from(origin().elapsed().as_millis()).unwrap_or(u64::MAX);
        LAST_ROUND.store(now, Ordering::Relaxed);
        // One round blocks until a socket is ready or a timer due, and for a beat at most. Nothing in
        // it may end this thread: it carries keepalive and the events of every connection.
        let round = catch_unwind(AssertUnwindSafe(|| super::event_loop::round(BEAT)));
        match round {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "libvirt's event loop failed; trying on");
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(_) => {
                tracing::error!("libvirt's event loop panicked; trying on");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}
